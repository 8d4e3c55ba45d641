# Shared by the scripts in this folder: where things are, what they say, and how they become root.
# shellcheck shell=bash

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that is installed for the tests, and everything that they write. Never committed.
cache=$root_dir/target/e2e
export PATH="$cache/bin:$PATH"

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# What goes before a command that needs root.
root=()
[[ $EUID -eq 0 ]] || root=(sudo)

# Runs one command as root.
as_root() {
    ((${#root[@]} == 0)) || command -v sudo >/dev/null ||
        die "\`$*\` needs root, and there is no sudo here: run this script as root"
    "${root[@]}" "$@"
}

# Under sudo, cargo is where the user who called it installed it.
use_callers_rust() {
    [[ $EUID -eq 0 && -n ${SUDO_USER:-} ]] || return 0
    local home
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    if ! command -v cargo >/dev/null && [[ -x $home/.cargo/bin/cargo ]]; then
        export PATH="$home/.cargo/bin:$PATH" CARGO_HOME="$home/.cargo" RUSTUP_HOME="$home/.rustup"
    fi
}

# Gives what root has written into the caller's folders back to the user who called sudo.
give_back() {
    [[ $EUID -eq 0 && -n ${SUDO_USER:-} ]] || return 0
    local folder
    for folder in "$root_dir/target" "${CARGO_HOME:-}"; do
        if [[ -n $folder && -d $folder ]]; then
            chown -R --from=root:root "$SUDO_USER:" "$folder"
        fi
    done
}

# Runs a command with so many free hugepages of 2 MiB. What had to be added is given back when
# the shell ends.
with_hugepages() {
    local wanted=$1 pages=/sys/kernel/mm/hugepages/hugepages-2048kB free before added
    shift
    free=$(cat "$pages/free_hugepages")
    if ((free < wanted)); then
        before=$(cat "$pages/nr_hugepages")
        echo $((before + wanted - free)) >"$pages/nr_hugepages" ||
            die "hugepages cannot be reserved here: in a container, mount /sys writable or reserve them outside"
        # The kernel gives what it has.
        added=$(($(cat "$pages/nr_hugepages") - before))
        # shellcheck disable=SC2064 # These values, now.
        trap "give_back; echo \$((\$(cat '$pages/nr_hugepages') - $added)) >'$pages/nr_hugepages'" EXIT
        free=$(cat "$pages/free_hugepages")
        ((free >= wanted)) || die "$wanted free hugepages of 2 MiB are needed and the kernel gives $free: free memory, or reserve them at boot (hugepages=$wanted)"
    fi
    DPDK_MEMORY=huge "$@"
}
use_callers_rust
