//! EAL, DPDK's runtime: started once per process, cleaned up when the last owner of anything of it is gone.

use crate::args::{EalArgs, PREFIX};
use crate::device::{Bus, Device};
use crate::error::{Errno, Error, Result, check};
use crate::interrupts::Hold;
use crate::{diagnose, interrupts, ledger, log, sys};
use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

static STARTED: AtomicBool = AtomicBool::new(false);
/// Held while devices come, go or are looked for: EAL's lists of them have no lock.
static CONTROL: Mutex<()> = Mutex::new(());
/// The runtime while it lives.
static RUNNING: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

/// DPDK's runtime. Clones share it; mempools, ports and queues keep it alive, and the last of them to go cleans it up.
#[derive(Clone, Debug)]
pub struct Eal {
    runtime: Arc<Runtime>,
}

#[derive(Debug)]
struct Runtime {
    /// EAL's folder under /run, ours alone by its unique file prefix.
    folder: Option<PathBuf>,
}

impl Eal {
    /// Starts EAL and probes the devices named in `args`. The calling thread becomes EAL's main thread.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] the second time; else by cause: no hugepages, no permission, a device on its kernel
    /// driver, the IOMMU off, a secondary process, wrong devargs, wrong arguments.
    pub fn init(args: &EalArgs) -> Result<Self> {
        let arguments = args.build(&affinity(), std::process::id())?;
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(Error::AlreadyInitialised);
        }
        log::open().inspect_err(|_| STARTED.store(false, Ordering::Release))?;
        log::forget();
        if let Err(errno) = start(&arguments) {
            let error = why_not_started(args, &arguments, errno);
            remove_folder(runtime_folder(args).as_deref());
            log::close();
            // EAL itself knows whether it got far enough to refuse a second try.
            STARTED.store(false, Ordering::Release);
            return Err(error);
        }
        let folder = runtime_folder(args);
        folder.iter().for_each(|folder| sweep_beside(folder));
        let eal = Self { runtime: Arc::new(Runtime { folder }) };
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&eal.runtime);
        // SAFETY: EAL runs; the command's function is C's and reads what DPDK itself guards. Without it nothing is amiss.
        unsafe { sys::shim_telemetry_open() };
        interrupts::watch()?;
        for device in args.devices() {
            match device.bus() {
                Bus::Virtual => eal.attach(device)?,
                Bus::Pci | Bus::Other => eal.require(device)?,
            }
        }
        Ok(eal)
    }

    /// The EAL of this process, when it has been started and somebody still holds it.
    pub fn running() -> Option<Self> {
        let runtime = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).upgrade()?;
        Some(Self { runtime })
    }

    /// The running DPDK's version, e.g. `DPDK 22.11.11`.
    pub fn version() -> String {
        // SAFETY: takes nothing and returns a string that lives as long as the program.
        let text = unsafe { sys::rte_version() };
        // SAFETY: as above; it is NUL-terminated.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// The version of the headers that this program was built with, e.g. `22.11.11`.
    pub fn built_with() -> &'static str {
        env!("DPDK_BUILD_VERSION")
    }

    /// Attaches a virtual device, so that its ports appear.
    ///
    /// # Errors
    /// [`Error::WrongDevargs`] when there is no such driver or it refuses the arguments, with what it said.
    pub fn attach(&self, device: &Device) -> Result<()> {
        let devargs = device.devargs();
        let text = c_string(&devargs)?;
        if self.ports_of(device).is_ok_and(|ports| !ports.is_empty()) {
            let reason = "a device of this name is attached already; give it another number".to_owned();
            return Err(Error::WrongDevargs { devargs, reason });
        }
        let control = control();
        log::forget();
        // SAFETY: the string outlives the call; EAL runs for as long as `self` lives, and nobody else changes its devices.
        let returned = unsafe { sys::rte_dev_probe(text.as_ptr()) };
        drop(control);
        if returned == 0 {
            return Ok(());
        }
        let errno = Errno::of(returned);
        let said = log::recent();
        let forbidden = ["Permission denied", "not permitted"];
        let fix =
            "run with the capability its driver needs (CAP_NET_RAW, CAP_NET_ADMIN or CAP_BPF), or as root";
        if !is_root() && said.lines().iter().any(|line| forbidden.iter().any(|text| line.contains(text))) {
            return Err(Error::NoPermission { path: devargs, fix: format!("{fix}; {said}") });
        }
        let reason = match errno.number() {
            // The number of a device name that no driver claims.
            libc::EFAULT => "no driver of this DPDK goes by that name; it has net_memif0, net_af_xdp0, net_af_packet0, net_tap0, net_ring0, \
                             net_null0 and others, as installed"
                .to_owned(),
            _ if is_root() => format!("its driver refused it; {said}. Its documentation names the arguments it takes"),
            _ => format!("its driver refused it; {said}. Its documentation names the arguments it takes; and maybe: {fix}"),
        };
        Err(Error::WrongDevargs { devargs, reason })
    }

    /// Ids of the ports of a device that has been probed; most have one.
    ///
    /// # Errors
    /// [`Error::Call`] when EAL cannot look for it.
    pub fn ports_of(&self, device: &Device) -> Result<Vec<u16>> {
        let name = c_string(device.name())?;
        let mut ports = vec![0; sys::SHIM_PORTS_MAX as usize];
        let _control = control();
        // SAFETY: the string outlives the call, and `ports` has room for the number that is passed.
        let found = unsafe { sys::shim_ports_of(name.as_ptr(), ports.as_mut_ptr(), sys::SHIM_PORTS_MAX) };
        let found = check(found, || format!("rte_eth_iterator_init({})", device.name()))?;
        ports.truncate(found as usize);
        Ok(ports)
    }

    /// Ids of all ports.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports = vec![0; sys::SHIM_PORTS_MAX as usize];
        let _control = control();
        // SAFETY: `ports` has room for the number that is passed.
        let found = unsafe { sys::shim_ports(ports.as_mut_ptr(), sys::SHIM_PORTS_MAX) };
        ports.truncate(found as usize);
        ports
    }

    /// Makes the calling thread known to EAL, so that it has mempool caches of its own, until the guard is dropped.
    /// The thread's affinity and priority stay as they are. For a thread that EAL knows already nothing changes.
    ///
    /// # Errors
    /// [`Error::NoLcore`] when EAL's table of threads is full.
    pub fn register_thread(&self) -> Result<RegisteredThread> {
        // SAFETY: reads a thread-local integer.
        let known = unsafe { sys::shim_has_lcore() } != 0;
        if !known {
            // SAFETY: EAL runs for as long as `self` lives, and this thread has no lcore id.
            if unsafe { sys::rte_thread_register() } != 0 {
                return Err(match Errno::last() {
                    errno if errno.number() == libc::ENOMEM => Error::NoLcore,
                    errno => Error::Call { what: "rte_thread_register".into(), errno, log: log::recent() },
                });
            }
        }
        // SAFETY: reads a thread-local integer.
        let lcore = unsafe { sys::shim_lcore_id() };
        Ok(RegisteredThread { lcore, owned: !known, _eal: self.clone(), _not_send: PhantomData })
    }

    fn require(&self, device: &Device) -> Result<()> {
        if !self.ports_of(device)?.is_empty() {
            return Ok(());
        }
        if device.bus() == Bus::Pci {
            return Err(diagnose::pci(
                Path::new("/sys"),
                Path::new("/dev"),
                device.name(),
                diagnose::may_open,
                log::recent(),
            ));
        }
        Err(Error::NoPmd { device: device.to_string(), log: log::recent() })
    }
}

/// A thread that EAL knows, until this is dropped on that thread.
#[derive(Debug)]
pub struct RegisteredThread {
    lcore: u32,
    owned: bool,
    _eal: Eal,
    /// Registration belongs to one thread.
    _not_send: PhantomData<*mut ()>,
}

impl RegisteredThread {
    /// The thread's lcore id: an index into EAL's tables, not a CPU number.
    pub fn lcore_id(&self) -> u32 {
        self.lcore
    }

    /// Whether EAL knew the thread before, so that this guard changes nothing.
    pub fn was_known(&self) -> bool {
        !self.owned
    }
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: this is the thread that was registered (the guard is not Send), and EAL still runs.
            unsafe { sys::rte_thread_unregister() }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let kept = ledger::outstanding();
        if kept != 0 {
            // Their memory is EAL's: the end of the process is the only sound time to take it away.
            tracing::warn!(target: "dpdk", kept, "mbufs are still in use, so EAL is not cleaned up");
            return;
        }
        // Cleanup unmaps the memory that EAL's interrupt thread works with, and does not end the thread.
        let _control = control();
        let Some(interrupts) = Hold::take() else {
            tracing::warn!(target: "dpdk", "EAL's interrupt thread does not answer, so EAL is not cleaned up");
            return;
        };
        interrupts.forever();
        // SAFETY: mempools, ports, queues and registered threads each hold this runtime, so none is left; no mbuf is either.
        let returned = unsafe { sys::rte_eal_cleanup() };
        if returned != 0 {
            tracing::warn!(target: "dpdk", errno = %Errno::of(returned), "EAL's cleanup failed");
        }
        log::close();
        remove_folder(self.folder.as_deref());
    }
}

/// For whatever adds, removes or lists devices.
pub(crate) fn control() -> MutexGuard<'static, ()> {
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(arguments: &[String]) -> std::result::Result<(), Errno> {
    // EAL keeps pointers into its arguments and changes their array: they live until the process ends.
    let argv: Vec<*mut c_char> = arguments
        .iter()
        .map(|argument| CString::new(argument.as_str()).unwrap_or_default().into_raw())
        .chain([std::ptr::null_mut()])
        .collect();
    let argc = i32::try_from(arguments.len()).unwrap_or(i32::MAX);
    let argv = argv.leak().as_mut_ptr();
    // SAFETY: argv holds argc writable, NUL-terminated strings and a NULL, all leaked.
    if unsafe { sys::rte_eal_init(argc, argv) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

fn why_not_started(args: &EalArgs, arguments: &[String], errno: Errno) -> Error {
    let log = log::recent();
    if errno.number() == libc::EALREADY {
        return Error::AlreadyInitialised;
    }
    if args.is_secondary() {
        return Error::SecondaryProcess { log };
    }
    if errno.number() == libc::EINVAL {
        return Error::WrongArguments { arguments: arguments.join(" "), log };
    }
    if args.needs_hugepages() {
        let (free, total) = diagnose::hugepages(Path::new("/sys"));
        if free == 0 {
            return Error::NoHugepages { free, total };
        }
    }
    if matches!(errno.number(), libc::EACCES | libc::EPERM) && !is_root() {
        let fix = format!("run as root, or give this user the files that DPDK names; {log}");
        return Error::NoPermission { path: "DPDK's memory or devices".into(), fix };
    }
    Error::Init { errno, log }
}

/// EAL's folder under /run when its name is ours, so that nobody else uses it.
fn runtime_folder(args: &EalArgs) -> Option<PathBuf> {
    // SAFETY: EAL's start has been tried; the string is static.
    let folder = unsafe { sys::rte_eal_get_runtime_dir() };
    if folder.is_null() || !args.derives_prefix() {
        return None;
    }
    // SAFETY: not NULL, NUL-terminated, and static.
    let folder = PathBuf::from(unsafe { CStr::from_ptr(folder) }.to_string_lossy().into_owned());
    folder.file_name()?.to_string_lossy().starts_with(PREFIX).then_some(folder)
}

fn remove_folder(folder: Option<&Path>) {
    if let Some(folder) = folder
        && let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(target: "dpdk", folder = %folder.display(), %error, "EAL's folder stays behind");
    }
}

/// Removes the empty folders of processes that were killed.
fn sweep_beside(folder: &Path) {
    for entry in folder.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten().flatten()
    {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).filter(|pid| pid.parse::<u32>().is_ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Fails where it is not empty or not ours, as it should.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The CPUs that the calling thread may run on.
fn affinity() -> Vec<usize> {
    // SAFETY: a bit set of integers: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and as large as the size says.
    let returned = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if returned != 0 {
        return Vec::new();
    }
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| {
            // SAFETY: `cpu` is below CPU_SETSIZE.
            unsafe { libc::CPU_ISSET(cpu, &set) }
        })
        .collect()
}

fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Setting {
        what: "name",
        given: format!("{text:?}"),
        expected: "it may not contain a NUL".into(),
    })
}
