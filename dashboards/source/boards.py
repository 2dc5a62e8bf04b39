"""All boards."""

import overview
import replicas
import speculation

BOARDS = (overview.BOARD, speculation.BOARD, replicas.BOARD)
