//! The command line of unsocket: arguments to configuration to run; no protocol here.

fn main() {}
