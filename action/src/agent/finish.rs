//! `larder agent finish`: brings an order from the job's post step to the agent, and its answers back.

use std::{io, path::Path};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use super::messages::MAX_LINE;

/// Carries one line of `input` to the agent at `socket`, and all that it answers to `output`. When `input` ends
/// before the answers do, whoever ordered is gone: then the agent is left, and knows it.
///
/// # Errors
/// When there is no agent.
pub async fn finish(
    socket: &Path,
    input: impl io::Read + Send + 'static,
    mut output: impl tokio::io::AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut lines = lines_of(input);
    let Some(order) = lines.recv().await else {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no order came"));
    };
    let stream = UnixStream::connect(socket).await?;
    let (read, mut write) = stream.into_split();
    write.write_all(&order).await?;
    let mut answers = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut next = (&mut answers).take(MAX_LINE);
        tokio::select! {
            read = next.read_until(b'\n', &mut line) => if read? == 0 { return Ok(()) },
            more = lines.recv() => if more.is_none() { return Ok(()) },
        }
        output.write_all(&line).await?;
        output.flush().await?;
    }
}

/// The lines of a blocking reader, each with its end. Read on a thread of its own: a read of standard input
/// cannot be given up, and must not keep the process from ending.
fn lines_of(input: impl io::Read + Send + 'static) -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    use io::{BufRead as _, Read as _};
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = io::BufReader::new(input);
        loop {
            let mut line = Vec::new();
            let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) || sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
