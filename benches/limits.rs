//! Raw limits of this machine's disk, to judge the broker's figures by: sequential O_DIRECT appends and reads through an io_uring of
//! one thread, with the ways a log can make a write durable side by side.
//!
//! `cargo bench --bench limits -- --dir DIR` writes up to `--file-mib` in DIR per cell and removes it again. DIR must be on the disk
//! that the broker will use.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Parser;
use hdrhistogram::Histogram;
use io_uring::{IoUring, opcode, squeue, types};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// What O_DIRECT asks of addresses, offsets and lengths on every disk in use.
const ALIGN: usize = 4096;

#[derive(Parser)]
#[command(name = "limits", about = "Raw sequential O_DIRECT write and read limits of a disk")]
struct Args {
    /// Directory on the disk to measure.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Longest time per cell, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Size of the file of each cell, in MiB: the other end of a cell.
    #[arg(long, default_value_t = 1024)]
    file_mib: usize,
    /// Times the whole table is measured; each cell shows its median.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only the cells whose label contains this; may be repeated.
    #[arg(long)]
    only: Vec<String>,
    /// One JSON object per cell instead of the table.
    #[arg(long)]
    json: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The blocks under the file before the measurement.
#[derive(Clone, Copy, PartialEq)]
enum Blocks {
    /// fallocated: the first write of each block converts its extent, which the file system's journal has to record.
    Unwritten,
    /// Written before, as a recycled or zero-filled segment file is: a write changes no metadata.
    Written,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// No flush at all.
    Write,
    /// Every write carries RWF_DSYNC.
    Dsync,
    /// An fdatasync through the ring after each write completed.
    RingSync,
    /// An fdatasync submitted together with the write, linked to it.
    LinkedSync,
    /// The system call fdatasync, blocking, after each write completed.
    CallSync,
    Read,
}

#[derive(Clone, Copy)]
struct Cell {
    kind: Kind,
    blocks: Blocks,
    size: usize,
    depth: usize,
}

#[derive(Clone, Copy)]
struct Figures {
    operations_per_s: f64,
    mib_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

impl Cell {
    fn label(&self) -> String {
        let kind = match self.kind {
            Kind::Write => "write",
            Kind::Dsync => "write RWF_DSYNC",
            Kind::RingSync => "write, then fdatasync by ring",
            Kind::LinkedSync => "write linked to fdatasync",
            Kind::CallSync => "write, then fdatasync by call",
            Kind::Read => "read",
        };
        let blocks = if self.blocks == Blocks::Unwritten { "unwritten" } else { "written" };
        format!("{} KiB QD{} {kind}, {blocks} blocks", self.size / KIB, self.depth)
    }
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for blocks in [Blocks::Unwritten, Blocks::Written] {
        for size in [4 * KIB, 16 * KIB, 64 * KIB, MIB] {
            for kind in [Kind::Write, Kind::Dsync, Kind::RingSync, Kind::LinkedSync, Kind::CallSync] {
                cells.push(Cell { kind, blocks, size, depth: 1 });
            }
            if size >= 64 * KIB {
                cells.push(Cell { kind: Kind::Write, blocks, size, depth: 4 });
                cells.push(Cell { kind: Kind::Dsync, blocks, size, depth: 4 });
            }
        }
    }
    for (size, depth) in [(64 * KIB, 1), (MIB, 1), (MIB, 2), (MIB, 4)] {
        cells.push(Cell { kind: Kind::Read, blocks: Blocks::Written, size, depth });
    }
    cells
}

/// Memory for one operation in flight, aligned for O_DIRECT.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Buffer {
    fn new(size: usize) -> Self {
        // Not zeros: some disks and hypervisors shortcut those.
        let bytes: Vec<u8> = (0..size + ALIGN).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let start = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, start, size }
    }

    fn pointer(&mut self) -> *mut u8 {
        self.bytes[self.start..].as_mut_ptr()
    }

    fn slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }
}

/// The file of a cell, removed when dropped.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn new(dir: &Path, blocks: Blocks, bytes: usize) -> io::Result<Self> {
        let path = dir.join(format!("limits-{}.tmp", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(&path)?;
        let scratch = Self { path, file };
        // SAFETY: a plain system call on a descriptor that `scratch` keeps open.
        if unsafe { libc::fallocate(scratch.file.as_raw_fd(), 0, 0, bytes as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if blocks == Blocks::Written {
            let buffer = Buffer::new(MIB);
            for at in (0..bytes).step_by(MIB) {
                scratch.file.write_all_at(buffer.slice(), at as u64)?;
            }
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it: a file that stays is seen by its name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One cell's run: a window of `depth` operations over the file from its start.
struct Run<'a> {
    cell: Cell,
    file: &'a File,
    ring: IoUring,
    buffers: Vec<Buffer>,
    started: Vec<Instant>,
    latencies: Histogram<u64>,
}

impl<'a> Run<'a> {
    fn new(cell: Cell, file: &'a File) -> io::Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(16)?;
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?;
        let mut buffers: Vec<Buffer> = (0..cell.depth).map(|_| Buffer::new(cell.size)).collect();
        // As the broker's memory is: without it each operation looks up and pins its pages anew.
        let vectors: Vec<libc::iovec> = buffers.iter_mut().map(|b| libc::iovec { iov_base: b.pointer().cast(), iov_len: b.size }).collect();
        // SAFETY: the buffers live as long as the ring, in the same struct.
        unsafe { ring.submitter().register_buffers(&vectors) }?;
        Ok(Self { cell, file, ring, buffers, started: vec![Instant::now(); cell.depth], latencies })
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: every entry points into `self.buffers`, which lives and stays put until `measure` has drained the ring.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    fn sync_entry(&self) -> squeue::Entry {
        opcode::Fsync::new(types::Fd(self.file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build()
    }

    fn start(&mut self, slot: usize, offset: u64) -> io::Result<()> {
        let fd = types::Fd(self.file.as_raw_fd());
        let (size, pointer) = (self.cell.size as u32, self.buffers[slot].pointer());
        let entry = match self.cell.kind {
            Kind::Read => opcode::ReadFixed::new(fd, pointer, size, slot as u16).offset(offset).build(),
            Kind::Dsync => opcode::WriteFixed::new(fd, pointer, size, slot as u16).offset(offset).rw_flags(libc::RWF_DSYNC).build(),
            _ => opcode::WriteFixed::new(fd, pointer, size, slot as u16).offset(offset).build(),
        };
        let entry = entry.user_data(slot as u64);
        self.started[slot] = Instant::now();
        if self.cell.kind == Kind::LinkedSync {
            self.push(&entry.flags(squeue::Flags::IO_LINK))?;
            return self.push(&self.sync_entry().user_data(slot as u64));
        }
        self.push(&entry)
    }

    /// Waits for one completion; its slot.
    fn wait(&mut self) -> io::Result<(usize, i32)> {
        loop {
            if let Some(done) = self.ring.completion().next() {
                if done.result() < 0 {
                    return Err(io::Error::from_raw_os_error(-done.result()));
                }
                return Ok((done.user_data() as usize, done.result()));
            }
            self.ring.submit_and_wait(1)?;
        }
    }

    /// Waits for one whole operation, flush included; its slot.
    fn finish(&mut self) -> io::Result<usize> {
        let (slot, transferred) = self.wait()?;
        if transferred as usize != self.cell.size {
            return Err(io::Error::other(format!("short transfer: {transferred} of {}", self.cell.size)));
        }
        match self.cell.kind {
            Kind::RingSync => {
                self.push(&self.sync_entry().user_data(slot as u64))?;
                self.wait()?;
            }
            Kind::LinkedSync => {
                self.wait()?;
            }
            Kind::CallSync => self.file.sync_data()?,
            Kind::Write | Kind::Dsync | Kind::Read => {}
        }
        // Nanoseconds of one operation fit; a clamp costs nothing.
        self.latencies.saturating_record(self.started[slot].elapsed().as_nanos() as u64);
        Ok(slot)
    }

    fn measure(mut self, longest: Duration, file_bytes: usize) -> io::Result<Figures> {
        let (size, mut next, mut done) = (self.cell.size as u64, 0_u64, 0_u64);
        let last = (file_bytes as u64 / size) * size;
        let mut free: VecDeque<usize> = (0..self.cell.depth).collect();
        let start = Instant::now();
        loop {
            let more = next < last && start.elapsed() < longest;
            if let Some(slot) = free.pop_front_if(|_| more) {
                self.start(slot, next)?;
                next += size;
                continue;
            }
            if free.len() == self.cell.depth {
                break;
            }
            free.push_back(self.finish()?);
            done += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        let us = |ns: u64| ns as f64 / 1000.0;
        Ok(Figures {
            operations_per_s: done as f64 / seconds,
            mib_per_s: (done * size) as f64 / seconds / MIB as f64,
            p50_us: us(self.latencies.value_at_quantile(0.5)),
            p99_us: us(self.latencies.value_at_quantile(0.99)),
            p999_us: us(self.latencies.value_at_quantile(0.999)),
            max_us: us(self.latencies.max()),
        })
    }
}

fn median(mut rounds: Vec<Figures>) -> Figures {
    rounds.sort_by(|a, b| a.operations_per_s.total_cmp(&b.operations_per_s));
    rounds[rounds.len() / 2]
}

fn print(cell: &Cell, figures: &Figures, json: bool) {
    let Figures { operations_per_s, mib_per_s, p50_us, p99_us, p999_us, max_us } = figures;
    let label = cell.label();
    if json {
        println!(
            "{{\"cell\":\"{label}\",\"operations_per_s\":{operations_per_s:.0},\"mib_per_s\":{mib_per_s:.1},\"p50_us\":{p50_us:.1},\"p99_us\":{p99_us:.1},\"p99.9_us\":{p999_us:.1},\"max_us\":{max_us:.1}}}"
        );
    } else {
        println!(
            "{label:<60} {operations_per_s:>9.0} ops/s {mib_per_s:>8.1} MiB/s   p50 {p50_us:>7.0} us  p99 {p99_us:>7.0}  p99.9 {p999_us:>7.0}  max {max_us:>7.0}"
        );
    }
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let file_bytes = args.file_mib * MIB;
    let wanted = |cell: &Cell| args.only.is_empty() || args.only.iter().any(|only| cell.label().contains(only));
    let cells: Vec<Cell> = cells().into_iter().filter(wanted).collect();
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); cells.len()];
    for _ in 0..args.rounds.max(1) {
        for (cell, figures) in cells.iter().zip(&mut figures) {
            let scratch = Scratch::new(&args.dir, cell.blocks, file_bytes)?;
            figures.push(Run::new(*cell, &scratch.file)?.measure(Duration::from_secs_f64(args.seconds), file_bytes)?);
        }
    }
    for (cell, figures) in cells.iter().zip(figures) {
        print(cell, &median(figures), args.json);
    }
    Ok(())
}
