//! EAL's start and the ways in which it fails.

use crate::support::{Captured, args, device};
use dpdk::{Eal, EalArgs, Error, Memory};
use std::path::Path;

pub(crate) fn starts_once() {
    let captured = Captured::open(tracing::Level::INFO);
    let folder = format!("/var/run/dpdk/unsocket-{}", std::process::id());

    let eal = Eal::init(&args()).unwrap();
    let log = captured.text();
    assert!(log.contains("INFO dpdk: EAL: "), "{log}");
    assert!(Eal::version().starts_with("DPDK "), "{}", Eal::version());
    assert!(Eal::version().contains(Eal::built_with()), "{} ran with {}", Eal::built_with(), Eal::version());
    assert!(eal.ports().is_empty());
    assert!(matches!(Eal::init(&args()), Err(Error::AlreadyInitialised)));
    let same = Eal::running().expect("it runs");
    drop(eal);
    assert!(same.ports().is_empty() && Eal::running().is_some());
    drop(same);
    assert!(Eal::running().is_none());
    assert!(matches!(Eal::init(&args()), Err(Error::AlreadyInitialised)));
    assert!(!Path::new(&folder).exists(), "{folder} stays behind");
}

pub(crate) fn hugepages_or_error() {
    let free: u64 = std::fs::read_dir("/sys/kernel/mm/hugepages")
        .unwrap()
        .map(|size| std::fs::read_to_string(size.unwrap().path().join("free_hugepages")).unwrap())
        .map(|number| number.trim().parse::<u64>().unwrap())
        .sum();
    match Eal::init(&EalArgs::new().memory(Memory::HugePages)) {
        Ok(_) => assert!(free > 0, "EAL started on hugepages that are not there"),
        Err(error) => {
            assert_eq!(free, 0, "{error}");
            assert!(matches!(error, Error::NoHugepages { free: 0, .. }), "{error}");
            assert!(error.to_string().contains("sudo scripts/hugepages"), "{error}");
        }
    }
}

pub(crate) fn wrong_argument() {
    let error = Eal::init(&args().extra(["--frobnicate"])).unwrap_err();
    assert!(
        matches!(&error, Error::WrongArguments { arguments, .. } if arguments.contains("--frobnicate")),
        "{error}"
    );
}

pub(crate) fn secondary() {
    let prefix = format!("nobody-{}", std::process::id());
    let error =
        Eal::init(&args().extra(["--proc-type=secondary".to_owned(), format!("--file-prefix={prefix}")]))
            .unwrap_err();
    // A prefix of the caller's is the caller's to tidy.
    std::fs::remove_dir(Path::new("/var/run/dpdk").join(prefix)).unwrap();
    assert!(matches!(error, Error::SecondaryProcess { .. }), "{error}");
}

pub(crate) fn absent_pci() {
    let error = Eal::init(&args().device(device("ffff:ff:1f.7"))).unwrap_err();
    assert!(matches!(&error, Error::NoSuchDevice { device } if device == "ffff:ff:1f.7"), "{error}");
}

pub(crate) fn unknown_driver() {
    let error = Eal::init(&args().device(device("net_nonsense0"))).unwrap_err();
    assert!(matches!(&error, Error::WrongDevargs { devargs, .. } if devargs == "net_nonsense0"), "{error}");
    assert!(error.to_string().contains("net_memif0"), "{error}");
}

pub(crate) fn wrong_devargs() {
    let eal = Eal::init(&args()).unwrap();
    let error = eal.attach(&device("net_memif0,role=emperor")).unwrap_err();
    assert!(matches!(error, Error::WrongDevargs { .. }), "{error}");
    assert!(error.to_string().contains("role"), "{error}");
    eal.attach(&device("net_null0")).unwrap();
    let error = eal.attach(&device("net_null0")).unwrap_err();
    assert!(error.to_string().contains("attached already"), "{error}");
}
