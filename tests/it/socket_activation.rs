//! A listening socket that is handed over across `exec`, as the service manager does it.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use pyvorin_edge::lifecycle::listen_fds::{Error, take_listeners};

const ROLE: &str = "PYVORIN_EDGE_TEST_ROLE";

/// Runs the test `name` of this program again, in a process whose descriptor 3 is `socket`.
fn run_with_socket(name: &str, role: &str, fd_name: &str, socket: OwnedFd) -> Output {
    // The shell moves the socket from its stdin to 3, and exec keeps the pid that LISTEN_PID names.
    let script = r#"export LISTEN_PID=$$; exec "$0" "$@" 3<&0 </dev/null"#;
    Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ROLE, role)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", fd_name)
        .stdin(Stdio::from(socket))
        .output()
        .unwrap()
}

fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

#[track_caller]
fn assert_passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn a_passed_socket_is_taken_once_under_its_name() {
    if let Some(address) = role() {
        let taken = take_listeners().unwrap();
        let [socket] = taken.as_slice() else { panic!("{taken:?}") };
        assert_eq!(socket.name, "pyvorin-edge.socket");
        assert_eq!(socket.listener.local_addr().unwrap().to_string(), address);
        assert!(take_listeners().unwrap().is_empty());
        return;
    }
    assert!(take_listeners().unwrap().is_empty(), "nothing was passed to this process");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let name = "socket_activation::a_passed_socket_is_taken_once_under_its_name";
    assert_passed(&run_with_socket(name, &address, "pyvorin-edge.socket", listener.into()));
}

#[test]
fn a_socket_of_another_name_is_refused_by_that_name() {
    if role().is_some() {
        let error = take_listeners().unwrap_err();
        assert!(matches!(&error, Error::Unexpected(name) if name == "telnet"), "{error}");
        assert!(error.to_string().contains("'telnet'"));
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = "socket_activation::a_socket_of_another_name_is_refused_by_that_name";
    assert_passed(&run_with_socket(name, "child", "telnet", listener.into()));
}
