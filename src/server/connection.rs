//! Accepted connections that can't outlive the server, nor stay silent forever.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Pause after a failed accept: most often the process is out of file descriptors, and an instant
/// retry would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener.
#[derive(Debug)]
pub(super) struct Incoming {
    listener: TcpListener,
    handshake_timeout: Duration,
    ending: watch::Receiver<bool>,
    pause: Option<Pin<Box<Sleep>>>,
}

/// One connection. Reads and writes fail once the server ends, or if the peer says nothing from the
/// start: the HTTP/2 layer waits for a first message without limit, in a graceful shutdown as well.
pub(super) struct Connection {
    stream: TcpStream,
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
    handshake: Option<Pin<Box<Sleep>>>,
}

// === impl Incoming ===

impl Incoming {
    /// Takes connections from `listener`; all of them end when `ending` turns true or its sender is
    /// gone.
    pub(super) fn new(
        listener: TcpListener,
        handshake_timeout: Duration,
        ending: watch::Receiver<bool>,
    ) -> Self {
        Self { listener, handshake_timeout, ending, pause: None }
    }

    fn connection(&self, stream: TcpStream) -> Connection {
        // Messages are small and time matters. A socket that refuses the option is served all the
        // same.
        let _ = stream.set_nodelay(true);
        let mut ending = self.ending.clone();
        Connection {
            stream,
            ending: Box::pin(async move {
                let _ = ending.wait_for(|ending| *ending).await;
            }),
            handshake: Some(Box::pin(tokio::time::sleep(self.handshake_timeout))),
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => return Poll::Ready(Some(Ok(self.connection(stream)))),
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted; raise the limit of \
                        open files if it recurs");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// For HTTP; gRPC takes the stream.
impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // The stream has no end, and its errors are of single connections.
            let next =
                std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await;
            if let Some(Ok(connection)) = next
                && let Ok(peer) = connection.stream.peer_addr()
            {
                return (connection, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

// === impl Connection ===

impl Connection {
    fn poll_ending(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ending.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // A finished future must not be polled again; the next call finds this one.
                self.ending = Box::pin(std::future::ready(()));
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server ends"))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_ending(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.handshake = None;
        } else if read.is_pending()
            && let Some(handshake) = &mut self.handshake
            && handshake.as_mut().poll(context).is_ready()
        {
            self.handshake = None;
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_ending(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ending(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_ending(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}
