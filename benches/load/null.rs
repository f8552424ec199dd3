//! The null responder: takes whole requests and gives canned answers, on the broker's own runtime. What the generator reaches against it
//! is the limit of network, runtime and generator together on this machine: nothing is decoded, checked, copied or stored.

use std::{
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use corelane::{
    base::limits::{REGION, SMALL_RECEIVE},
    rt::{
        Class, Rt,
        notify::Notify,
        uring::{self, Settings, Uring},
    },
};

use crate::{
    batch::{Stamp, Template},
    echo,
    wire::{Put, Take, malformed, seal},
};

/// Bytes that are received at a time, unless a frame is larger.
const READ_AHEAD: usize = 128 << 10;
/// Memory of the responder's core, bytes: a chunk for each connection that sends large requests.
const MEMORY: usize = 512 << 20;

/// Serves on one core until the process is killed. Fetches are answered with batches like `template`, up to the bytes they ask for.
/// `bare`: on a bare ring instead of the broker's runtime.
pub fn serve(address: &str, cpu: Option<usize>, bare: bool, template: &Arc<Template>) -> io::Result<()> {
    let address = address.to_socket_addrs()?.next().ok_or_else(|| malformed("an address is needed"))?;
    let cpu = cpu.or_else(|| uring::allowed_cpus().first().copied()).ok_or_else(|| malformed("no CPU is allowed"))?;
    if bare {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
            return Err(io::Error::other(format!("core {cpu} is not one that this process may use")));
        }
        let listener = TcpListener::bind(address)?;
        println!("{}", listener.local_addr()?);
        return echo::serve(&listener, &Canned { template: Arc::clone(template), records: Default::default() });
    }
    let settings = Settings { cpus: vec![cpu], memory_per_core: MEMORY, send_zc_bytes: 0, spin: Duration::ZERO };
    let template = Arc::clone(template);
    uring::run(settings, |_| Ok(()), move |rt| listen(rt, address, Arc::clone(&template))).map_err(io::Error::other)
}

async fn listen(rt: Uring, address: SocketAddr, template: Arc<Template>) {
    let listener = match rt.listen(address) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("load: {address}: {error}"),
    };
    if let Ok(address) = rt.local_addr(&listener) {
        println!("{address}");
    }
    let canned = Rc::new(Canned { template, records: Default::default() });
    while let Ok((accepted, _)) = rt.accept(&listener).await {
        let Ok(socket) = rt.adopt(accepted) else { continue };
        let (task, canned) = (rt.clone(), canned.clone());
        rt.spawn(Class::Foreground, async move {
            // A connection that ends ends its task: the generator tells why.
            let _ = respond(&task, &socket, &canned).await;
        });
    }
    Notify::default().notified().await;
}

async fn respond(rt: &Uring, socket: &<Uring as Rt>::Socket, canned: &Canned) -> io::Result<()> {
    let (mut bytes, mut expected) = (Bytes::new(), 0);
    loop {
        bytes = receive(rt, socket, &bytes, expected).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut answers = Vec::new();
        while let Some(total) = frame_len(&bytes).filter(|total| bytes.len() >= *total) {
            canned.answer(&bytes.split_to(total)[4..], &mut answers)?;
            expected = total;
        }
        if !answers.is_empty() {
            rt.send(socket, answers).await?;
        }
    }
}

/// More bytes behind those that are the beginning of a frame; none at the end of the stream. Large frames are received in one piece, small
/// ones several at a time, as the broker does.
async fn receive(rt: &Uring, socket: &<Uring as Rt>::Socket, begun: &Bytes, expected: usize) -> io::Result<Bytes> {
    if begun.is_empty() && expected <= SMALL_RECEIVE {
        return rt.recv_some(socket).await;
    }
    let total = frame_len(begun).unwrap_or(expected).max(READ_AHEAD);
    if total > REGION {
        return Err(malformed("requests of up to 4 MiB are taken here"));
    }
    let mut chunk = rt.memory().chunk(total).await;
    chunk.extend(begun);
    while chunk.len() < total {
        let want = total - chunk.len();
        let (received, back) = rt.recv_into(socket, chunk, want).await;
        chunk = back;
        if received? == 0 {
            return Ok(Bytes::new());
        }
        if frame_len(chunk.filled()).is_some_and(|len| chunk.len() >= len) {
            break;
        }
    }
    Ok(chunk.slice(0..chunk.len()))
}

/// Length of the frame that begins here, with its size field.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<4>().map(|size| 4 + u32::from_be_bytes(*size) as usize)
}

/// The answers.
pub struct Canned {
    template: Arc<Template>,
    records: std::cell::OnceCell<Bytes>,
}

impl Canned {
    /// Appends the answer to a request without its size field.
    pub fn answer(&self, frame: &[u8], out: &mut Vec<Bytes>) -> io::Result<()> {
        let mut take = Take::new(frame);
        let (key, _version, id) = (take.i16()?, take.i16()?, take.i32()?);
        take.string()?;
        take.tags()?;
        match key {
            0 => produce(&mut take, id, out),
            1 => self.fetch(&mut take, id, out),
            _ => Err(malformed("only Produce and Fetch are known here")),
        }
    }

    fn fetch(&self, take: &mut Take, id: i32, out: &mut Vec<Bytes>) -> io::Result<()> {
        take.slice(12)?; // replica, wait, least bytes
        let most = take.i32()?.max(1) as usize;
        let records = self.records.get_or_init(|| {
            let mut records = Vec::new();
            let stamp = Stamp { run: 0, connection: 0, sequence: 0, intended: 0 };
            for _ in 0..(most / self.template.batch_len()).max(1) {
                self.template.put_head(&mut records, &stamp);
                records.extend(&self.template.tail()[..self.template.tail().len() - 3]);
            }
            records.into()
        });
        let mut head = begin(id);
        head.i32(0);
        head.i16(0);
        head.i32(0);
        head.uvarint(2);
        head.compact_string("");
        head.uvarint(2);
        head.i32(0);
        head.i16(0);
        head.i64(i64::MAX); // high watermark: the end is never reached
        head.i64(i64::MAX);
        head.i64(0);
        head.uvarint(0);
        head.i32(-1);
        head.uvarint(records.len() as u64 + 1);
        let ends = Bytes::from_static(&[0; 3]);
        seal(&mut head, records.len() + ends.len());
        out.extend([head.into(), records.clone(), ends]);
        Ok(())
    }
}

fn produce(take: &mut Take, id: i32, out: &mut Vec<Bytes>) -> io::Result<()> {
    take.compact_length()?; // transactional id: null
    if take.i16()? == 0 {
        return Ok(());
    }
    let mut answer = begin(id);
    answer.uvarint(2);
    answer.compact_string("");
    answer.uvarint(2);
    answer.i32(0);
    answer.i16(0);
    answer.i64(0); // base offset
    answer.i64(-1);
    answer.i64(0);
    answer.uvarint(1);
    answer.uvarint(0);
    answer.extend([0; 2]);
    answer.i32(0);
    answer.uvarint(0);
    seal(&mut answer, 0);
    out.push(answer.into());
    Ok(())
}

fn begin(id: i32) -> Vec<u8> {
    let mut out = Vec::new();
    out.i32(0);
    out.i32(id);
    out.uvarint(0);
    out
}
