"""A client of its own process, for being killed: starts a long stream and says when it is under way."""

import sys

import grpc
from skipstone.v1 import generation_pb2 as wire
from skipstone.v1 import generation_pb2_grpc as rpc


def main() -> None:
    address, tokens = sys.argv[1], int(sys.argv[2])
    stop = wire.StopCriteria(max_new_tokens=tokens, ignore_end_of_sequence=True)
    spec = wire.GenerationSpec(text="The longest story", stop=stop)
    with grpc.insecure_channel(address) as channel:
        call = rpc.GenerationServiceStub(channel).GenerateStream(wire.GenerateStreamRequest(spec=spec))
        for count, _ in enumerate(call):
            if count == 3:
                print("streaming", flush=True)


if __name__ == "__main__":
    main()
