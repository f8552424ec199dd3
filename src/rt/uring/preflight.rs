//! What the process must be allowed to do, checked before the first core is started: the runtime
//! library panics where it cannot have a ring.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Locked memory that the runtime library insists on.
const LEAST_LOCKED: u64 = 512 << 10;
/// Open files of a core: doorbell, rings, event descriptors.
const FILES_PER_CORE: u64 = 6;
/// Open files beside the cores: directories, listeners, the metadata log.
const FILES_BESIDE: u64 = 16;

/// The limits of this process that matter.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open files.
    pub files: u64,
    /// Bytes of locked memory.
    pub locked: u64,
}

/// Raises the soft limits of open files and of locked memory to the hard ones, as every broker's
/// documentation asks for; the limits then in force.
pub fn raise_limits() -> io::Result<Limits> {
    Ok(Limits { files: raise(libc::RLIMIT_NOFILE)?, locked: raise(libc::RLIMIT_MEMLOCK)? })
}

fn raise(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the structure is ours, and is only read.
    let done = unsafe { libc::setrlimit(resource, &raised) } == 0;
    Ok(if done { raised.rlim_cur } else { limit.rlim_cur })
}

/// Checks what `cores` cores need of the system. The error names what to change.
pub fn check(cores: usize, limits: Limits) -> Result<(), String> {
    let needed = FILES_BESIDE + FILES_PER_CORE * cores as u64;
    let open = match std::fs::read_dir("/proc/self/fd") {
        Ok(files) => files.count() as u64,
        Err(e) if e.raw_os_error() == Some(libc::EMFILE) => limits.files,
        Err(_) => 0,
    };
    if limits.files.saturating_sub(open) < needed {
        let limit = limits.files;
        return Err(format!("the limit of {limit} open files is too low: {cores} cores need {needed} more than are open. {FILES}"));
    }
    if limits.locked < LEAST_LOCKED {
        return Err(format!("the limit of {} KiB of locked memory is too low. {LOCKED}", limits.locked >> 10));
    }
    try_io_uring().map_err(|e| explain(&e))
}

/// Makes each of the three system calls of io_uring once.
fn try_io_uring() -> io::Result<()> {
    let mut uring = IoUring::new(2)?;
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe)?;
    // The last one added of those that the runtime library and this one cannot do without.
    if !probe.is_supported(opcode::UnlinkAt::CODE) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the operation names no memory.
    unsafe { uring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
    uring.submit_and_wait(1)?;
    Ok(())
}

const FILES: &str = "Raise it: ulimit -n 1048576, systemd LimitNOFILE=1048576, Docker --ulimit nofile=1048576";
const LOCKED: &str = "Raise it: systemd LimitMEMLOCK=infinity, Docker --ulimit memlock=-1; or use fewer cores (corelane.cores)";

/// The reason why a core cannot have what it needs, and the remedy.
pub fn explain(error: &io::Error) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let system = System {
        disabled: read("/proc/sys/kernel/io_uring_disabled"),
        status: read("/proc/self/status"),
        release: read("/proc/sys/kernel/osrelease"),
    };
    system.explain(error)
}

/// What the system says about itself, as it says it.
struct System {
    /// kernel.io_uring_disabled.
    disabled: String,
    /// /proc/self/status.
    status: String,
    release: String,
}

impl System {
    fn explain(&self, error: &io::Error) -> String {
        let release = self.release.trim();
        match error.raw_os_error() {
            Some(libc::EMFILE) => format!("{error}. {FILES}"),
            Some(libc::ENOMEM) => format!("{error}: the limit of locked memory is too low, or memory is short. {LOCKED}"),
            Some(libc::EAGAIN) => format!("{error}: the limit of threads is too low (ulimit -u, systemd TasksMax=, Docker --pids-limit)"),
            Some(libc::EINVAL) => format!("io_uring of kernel {release} lacks what is needed ({error}): 6.1 or newer is"),
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => format!("io_uring is refused ({error}): {}", self.refusal(release)),
            _ => error.to_string(),
        }
    }

    /// Who refuses io_uring, and what allows it.
    fn refusal(&self, release: &str) -> String {
        let disabled = self.disabled.trim();
        if !matches!(disabled, "" | "0") {
            return format!("kernel.io_uring_disabled is {disabled}. Allow it: sysctl -w kernel.io_uring_disabled=0");
        }
        if self.filtered() {
            return "a seccomp filter does it. Allow io_uring_setup, io_uring_enter and io_uring_register \
                    (Docker: --security-opt seccomp=FILE; systemd: SystemCallFilter=)"
                .to_owned();
        }
        format!("kernel {release} was built without it (CONFIG_IO_URING), or a security module forbids it")
    }

    /// A seccomp filter is in force.
    fn filtered(&self) -> bool {
        let mode = self.status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        mode.is_some_and(|mode| mode.trim() == "2")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_who_refuses() {
        let said = |disabled: &str, seccomp: u32, errno: i32| {
            let system = System {
                disabled: disabled.to_owned(),
                status: format!("Name:\tx\nSeccomp:\t{seccomp}\nSeccomp_filters:\t1\n"),
                release: "5.4.0-1\n".to_owned(),
            };
            system.explain(&io::Error::from_raw_os_error(errno))
        };
        assert!(said("2\n", 2, libc::EPERM).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(said("1\n", 0, libc::EPERM).contains("io_uring_disabled is 1"));
        for errno in [libc::EPERM, libc::ENOSYS] {
            assert!(said("0\n", 2, errno).contains("seccomp"), "{errno}");
            assert!(said("", 0, errno).contains("kernel 5.4.0-1 was built without it"), "{errno}");
        }
        assert!(said("0", 0, libc::EINVAL).contains("6.1 or newer"));
        assert!(said("0", 0, libc::ENOMEM).contains("LimitMEMLOCK"));
        assert!(said("0", 0, libc::EMFILE).contains("LimitNOFILE"));
    }

    #[test]
    fn limits_too_low_are_refused_before_anything_is_started() {
        let limits = Limits { files: 1 << 20, locked: 8 << 20 };
        assert!(check(1, limits).is_ok());
        let refused = |limits| check(2, limits).unwrap_err();
        assert!(refused(Limits { files: 20, ..limits }).contains("2 cores need 28 more than are open"));
        assert!(refused(Limits { locked: 64 << 10, ..limits }).contains("64 KiB of locked memory"));
    }
}
