//! Sockets: receiving both ways, sending in pieces, ends, interruptions and futures that are dropped.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{or, zip};

use super::{Client, World, ZERO_COPY, on_both, pattern};
use crate::base::limits::{BLOCK, SMALL_RECEIVE, SMALL_RECEIVES};
use crate::rt::uring::Uring;
use crate::rt::{Class, Rt};

on_both! {
    bytes_arrive_in_order on 1,
    many_pieces_and_large_ones on 1,
    a_waiting_receive_can_be_interrupted on 1,
    the_peer_goes_away on 1,
    what_the_peer_has_received_is_known on 1,
    dropped_receives_cost_nothing on 1,
    dropped_sends_keep_their_memory on 1,
    nothing_is_in_flight_at_the_end on 2,
}

async fn bytes_arrive_in_order<W: World>(world: Rc<W>) {
    let rt = world.rt();
    let (socket, client) = world.pair().await;
    let sent = pattern(0, 700_000);
    let receive = async {
        let mut got = Vec::new();
        let mut held = Vec::new();
        let mut chunk = rt.memory().chunk(100_000).await;
        while got.len() < sent.len() {
            if got.len() % 3 == 0 {
                let bytes = rt.recv_some(&socket).await.unwrap();
                assert!(!bytes.is_empty() && bytes.len() <= SMALL_RECEIVE);
                got.extend_from_slice(&bytes);
                // More are held than the kernel has: receiving has to go on from other memory.
                if held.len() < 2 * SMALL_RECEIVES {
                    held.push(bytes);
                }
            } else {
                if chunk.room() < 10 {
                    chunk = rt.memory().chunk(100_000).await;
                }
                let (before, want) = (chunk.len(), chunk.room().min(20_000));
                let (received, back) = rt.recv_into(&socket, chunk, want).await;
                let n = received.unwrap();
                chunk = back;
                assert!(n > 0 && n <= want && chunk.len() == before + n);
                got.extend_from_slice(&chunk.filled()[before..]);
            }
        }
        got
    };
    let (got, ()) = zip(receive, client.write_all(&sent)).await;
    assert!(got == sent);
    assert!(chunkless(rt).await);
}

/// All memory of the core comes back.
async fn chunkless<R: Rt>(rt: &R) -> bool {
    for _ in 0..2000 {
        if rt.memory().used() == 0 {
            return true;
        }
        rt.sleep(Duration::from_millis(1)).await;
    }
    false
}

async fn many_pieces_and_large_ones<W: World>(world: Rc<W>) {
    let rt = world.rt();
    let (socket, client) = world.pair().await;
    let mut at = 0;
    // Several rounds: on loopback the kernel reports after the first that it copies, and the rest go the plain way.
    for round in 0..3 {
        let mut pieces = Vec::new();
        let start = at;
        let small = [0, 1, 100, 3000, ZERO_COPY - 1];
        for i in 0..600 {
            let len = if i % 100 == 50 { ZERO_COPY << (i / 100 % 6) } else { small[i % small.len()] / (1 + i % 7) };
            let mut chunk = rt.memory().chunk(len.max(1)).await;
            if i % 3 == 0 || len > ZERO_COPY {
                chunk.extend(&pattern(at, len));
                pieces.push(chunk.slice(0..len));
            } else {
                pieces.push(Bytes::from(pattern(at, len)));
            }
            at += len;
        }
        let (sent, got) = zip(rt.send(&socket, pieces), client.read_exact(at - start)).await;
        sent.unwrap();
        assert!(got == pattern(start, at - start), "round {round}");
    }
    assert!(chunkless(rt).await, "sent memory comes back");
    rt.send(&socket, Vec::new()).await.unwrap();
    rt.send(&socket, vec![Bytes::new()]).await.unwrap();
}

async fn a_waiting_receive_can_be_interrupted<W: World>(world: Rc<W>) {
    let rt = world.rt();
    let (socket, client) = world.pair().await;
    rt.interrupt_recv(&socket); // nobody waits: no effect
    client.write_all(b"abc").await;
    let mut chunk = rt.memory().chunk(BLOCK).await;
    while chunk.len() < 3 {
        let (got, back) = rt.recv_into(&socket, chunk, 3).await;
        assert!(got.unwrap() > 0);
        chunk = back;
    }
    for _ in 0..10 {
        let wake = async {
            rt.sleep(Duration::from_millis(2)).await;
            rt.interrupt_recv(&socket);
            rt.interrupt_recv(&socket);
        };
        let ((got, back), ()) = zip(rt.recv_into(&socket, chunk, 100), wake).await;
        assert_eq!(got.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(back.filled(), b"abc");
        chunk = back;
    }
    client.write_all(b"d").await;
    let (got, chunk) = rt.recv_into(&socket, chunk, 100).await;
    assert_eq!((got.unwrap(), chunk.filled()), (1, &b"abcd"[..]));
}

async fn the_peer_goes_away<W: World>(world: Rc<W>) {
    let rt = world.rt();
    let (socket, client) = world.pair().await;
    client.write_all(b"last").await;
    drop(client);
    let mut got = Vec::new();
    loop {
        let bytes = rt.recv_some(&socket).await.unwrap();
        if bytes.is_empty() {
            break;
        }
        got.extend_from_slice(&bytes);
    }
    assert_eq!(got, b"last");
    let (end, chunk) = rt.recv_into(&socket, rt.memory().chunk(BLOCK).await, 10).await;
    assert_eq!((end.unwrap(), chunk.len()), (0, 0));
    // The first send may still succeed: the answer that nobody is there comes after it.
    let mut refused = None;
    for _ in 0..100 {
        if let Err(e) = rt.send(&socket, vec![Bytes::from_static(b"x"), Bytes::from_static(b"y")]).await {
            refused = Some(e.kind());
            break;
        }
        rt.sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(refused, Some(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)), "{refused:?}");

    // Our end: a waiting receive returns, the client sees the end of the stream.
    let (socket, client) = world.pair().await;
    let close = async {
        rt.sleep(Duration::from_millis(2)).await;
        rt.shutdown(&socket);
    };
    let (received, ()) = zip(rt.recv_some(&socket), close).await;
    assert!(received.map_or(true, |bytes| bytes.is_empty()));
    assert!(client.read(10).await.unwrap().is_empty());
    drop(socket);

    // A connection that is dropped on its way to a core is closed.
    let listener = rt.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = world.connect(rt.local_addr(&listener).unwrap()).await;
    drop(rt.accept(&listener).await.unwrap());
    assert!(client.read(10).await.map_or(true, |bytes| bytes.is_empty()));
}

/// More receives are dropped than the kernel has buffers, some of them with bytes on their way.
async fn dropped_receives_cost_nothing<W: World>(world: Rc<W>) {
    let rt = world.rt();
    for round in 0..4 * SMALL_RECEIVES {
        let (socket, client) = world.pair().await;
        let small = async {
            let _ = rt.recv_some(&socket).await;
        };
        let large = async {
            let _ = rt.recv_into(&socket, rt.memory().chunk(BLOCK).await, BLOCK).await;
        };
        let wait = async {
            rt.yield_now().await;
            client.write_all(b"x").await;
            if round % 3 == 0 {
                rt.yield_now().await;
            }
        };
        if round % 2 == 0 { or(or(wait, small), large).await } else { or(wait, small).await }
    }
    assert!(chunkless(rt).await, "memory of dropped receives comes back");
    // The buffers that the kernel had picked are back: as many receives as there are can hold one each, without the core's memory.
    let mut held = Vec::new();
    for _ in 0..SMALL_RECEIVES / 2 {
        let (socket, client) = world.pair().await;
        client.write_all(b"y").await;
        held.push(rt.recv_some(&socket).await.unwrap());
    }
    assert_eq!(rt.memory().used(), 0, "the kernel's buffers were lost");
    assert!(held.iter().all(|bytes| bytes == &b"y"[..]));
}

/// A send that is let go while the peer does not read: its memory is not given to somebody else before the kernel has let go of it too.
async fn dropped_sends_keep_their_memory<W: World>(world: Rc<W>) {
    let rt = world.rt();
    for round in 0..8 {
        let (socket, client) = world.pair().await;
        let mut sent = rt.memory().chunk(4 << 20).await;
        sent.extend(&pattern(0, 4 << 20));
        let whole = sent.slice(0..sent.len());
        drop(sent);
        let pieces = if round % 2 == 0 { vec![whole] } else { (0..64).map(|i| whole.slice(i << 16..(i + 1) << 16)).collect() };
        or(async { rt.send(&socket, pieces).await.unwrap() }, rt.sleep(Duration::from_millis(5))).await;
        let mut other = rt.memory().chunk(4 << 20).await;
        other.spare().fill(0xee);
        rt.shutdown(&socket);
        drop(socket);
        let mut got = 0;
        while let Ok(bytes) = client.read(1 << 20).await
            && !bytes.is_empty()
        {
            assert!(bytes == pattern(got, bytes.len()), "round {round}: other bytes behind {got}");
            got += bytes.len();
        }
    }
    assert!(chunkless(rt).await);
}

/// Tasks that wait for ever, and one that starts again whenever it is cancelled: a core ends all the same.
async fn nothing_is_in_flight_at_the_end<W: World>(world: Rc<W>) {
    let rt = world.rt().clone();
    let (socket, client) = world.pair().await;
    let stubborn = Rc::new(Cell::new(0u32));
    let (task, receiver, peer, tries) = (rt.clone(), socket.clone(), world.clone(), stubborn.clone());
    rt.spawn(Class::Foreground, async move {
        let _client = client;
        let _world = peer;
        let mut chunk = task.memory().chunk(BLOCK).await;
        loop {
            tries.set(tries.get() + 1);
            (_, chunk) = task.recv_into(&receiver, chunk, BLOCK).await;
            task.yield_now().await;
        }
    });
    let (socket, client) = world.pair().await;
    let task = rt.clone();
    rt.spawn(Class::Background, async move {
        let _client = client;
        let _ = task.send(&socket, vec![Bytes::from(vec![7; 32 << 20])]).await;
    });
    let task = rt.clone();
    rt.spawn(Class::Foreground, async move {
        let listener = task.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let _ = task.accept(&listener).await;
    });
    rt.sleep(Duration::from_millis(20)).await;
    assert!(stubborn.get() > 0);
}

/// Loopback copies what is sent without a copy, and says so: from then on large sends go the plain way, which is cheaper.
#[test]
fn zero_copy_ends_where_the_kernel_copies() {
    super::on_real_cores(1, async |world: Rc<super::Real>| {
        let rt = world.rt();
        let (socket, client) = world.pair().await;
        let registered = registered(rt);
        let Some(piece) = registered.first().filter(|_| rt.features().send_zc) else {
            return eprintln!("no memory may be locked here: nothing tested");
        };
        assert!(socket.sends_without_copy());
        let send = async |len: usize| {
            let (sent, got) = zip(rt.send(&socket, vec![piece.slice(..len)]), client.read_exact(len)).await;
            sent.unwrap();
            assert!(got == pattern(0, len));
        };
        send(ZERO_COPY - 1).await;
        assert!(socket.sends_without_copy(), "small ones are sent the plain way from the start");
        send(piece.len()).await;
        for _ in 0..1000 {
            if !socket.sends_without_copy() {
                return send(piece.len()).await;
            }
            rt.sleep(Duration::from_millis(1)).await;
        }
        panic!("the kernel's report was not heard");
    });
}

/// The kernel may have no room for its side of a send without a copy: the bytes are copied then, from now on.
#[test]
fn sends_that_the_kernel_refuses_go_the_plain_way() {
    super::on_real_cores(1, async |world: Rc<super::Real>| {
        let rt = world.rt();
        let registered = registered(rt);
        let Some(piece) = registered.first().filter(|_| rt.features().send_zc) else {
            return eprintln!("no memory may be locked here: nothing tested");
        };
        for errno in [libc::ENOMEM, libc::ENOBUFS] {
            let (socket, client) = world.pair().await;
            socket.refuse_next(errno);
            let pieces = vec![piece.slice(..10), piece.slice(10..), piece.slice(..ZERO_COPY)];
            let (sent, got) = zip(rt.send(&socket, pieces), client.read_exact(piece.len() + ZERO_COPY)).await;
            sent.unwrap();
            assert!(!socket.sends_without_copy());
            let (front, back) = got.split_at(piece.len());
            assert!(front == &piece[..] && back == &piece[..ZERO_COPY]);
        }
        // Any other error ends the connection.
        let (socket, _client) = world.pair().await;
        socket.refuse_next(libc::EPIPE);
        assert_eq!(rt.send(&socket, vec![piece.clone()]).await.unwrap_err().raw_os_error(), Some(libc::EPIPE));
    });
}

/// Large pieces of memory that is registered with the ring; none where the kernel refuses that.
fn registered(rt: &Uring) -> Vec<Bytes> {
    let memory = rt.memory();
    let chunks = (0..4).map(|_| {
        let mut chunk = memory.chunk_now(1 << 20);
        let len = chunk.room();
        chunk.extend(&pattern(0, len));
        chunk.slice(0..len)
    });
    let chunks: Vec<Bytes> = chunks.collect();
    chunks.into_iter().filter(|piece| memory.slot_of(piece.as_ptr()).is_some()).collect()
}

/// Pages of other memory would be pinned, and counted against the limit of locked memory, by each
/// send. Loopback copies, so the kernel would report any send without a copy.
#[test]
fn memory_that_is_not_registered_here_is_copied() {
    super::on_real_cores(1, async |world: Rc<super::Real>| {
        let rt = world.rt();
        let (socket, client) = world.pair().await;
        let len = 1 << 20;
        for _ in 0..4 {
            let piece = Bytes::from(pattern(0, len));
            let (sent, got) = zip(rt.send(&socket, vec![piece]), client.read_exact(len)).await;
            sent.unwrap();
            assert!(got == pattern(0, len));
            rt.sleep(Duration::from_millis(10)).await;
        }
        assert!(socket.sends_without_copy() || !rt.features().send_zc);
    });
}

/// A connection that was reset before it is accepted has its peer's address all the same.
#[test]
fn a_connection_that_was_reset_is_accepted_with_its_address() {
    super::on_real_cores(1, async |world: Rc<super::Real>| {
        let rt = world.rt();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = rt.listen(address.parse().unwrap()) else { continue };
            let client = std::net::TcpStream::connect(rt.local_addr(&listener).unwrap()).unwrap();
            let peer = client.local_addr().unwrap();
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            let (accepted, seen) = rt.accept(&listener).await.unwrap();
            assert_eq!(seen, peer);
            let socket = rt.adopt(accepted).unwrap();
            assert!(rt.recv_some(&socket).await.is_err());
        }
    });
}

async fn what_the_peer_has_received_is_known<W: World>(world: Rc<W>) {
    let rt = world.rt();
    let (socket, client) = world.pair().await;
    let (len, read) = (20 << 20, Cell::new(0));
    let sending = async {
        rt.send(&socket, vec![Bytes::from(pattern(0, len))]).await.unwrap();
        read.set(usize::MAX);
    };
    let reading = async {
        // The socket's buffers hold less: it is still being sent.
        rt.sleep(Duration::from_millis(20)).await;
        let before = rt.acknowledged(&socket);
        assert!(before < len as u64 && read.get() == 0);
        let part = len / 2;
        assert!(client.read_exact(part).await == pattern(0, part));
        while rt.acknowledged(&socket) <= before {
            rt.sleep(Duration::from_millis(1)).await;
        }
        assert!(client.read_exact(len - part).await == pattern(part, len - part));
        while rt.acknowledged(&socket) < len as u64 {
            rt.sleep(Duration::from_millis(1)).await;
        }
    };
    zip(sending, reading).await;
}
