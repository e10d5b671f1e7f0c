//! Sessions in a terminal, as people have them: its size arrives and follows,
//! keys reach the process in front, and the exit code comes back.

use anyhow::{Result, ensure};
use skiff_tests::{
    Cluster, Kubectl,
    image::BUSYBOX,
    terminal::{INTERRUPT, Size, Terminal},
};

const FIRST: Size = Size { rows: 33, columns: 101 };
const SECOND: Size = Size { rows: 44, columns: 120 };

/// A pod that waits, on one of the nodes.
fn pod_on(kubectl: &Kubectl, name: &str, node: &str, container: &str) -> Result<()> {
    let spec = format!(
        "nodeName: {node}\nrestartPolicy: Never\ncontainers:\n- {{name: c, image: '{BUSYBOX}', {container}, \
         command: [sh, -c, 'while read line; do :; done']}}"
    );
    kubectl.apply_pod(name, "", &spec)?;
    kubectl.wait_pod(name).map(drop)
}

/// A shell in a terminal of the first size: all there is to see of a terminal.
fn try_shell(terminal: &mut Terminal) -> Result<()> {
    terminal.line("test -t 0 && test -t 1 && test -t 2 && echo terminal-$((1+2))", "terminal-3")?;
    let until = |size: Size, word: &str| {
        let Size { rows, columns } = size;
        format!("until [ \"$(stty size)\" = '{rows} {columns}' ]; do sleep 0.1; done; echo {word}-$((1+3))")
    };
    terminal.line(&until(FIRST, "first"), "first-4")?;
    terminal.resize(SECOND)?;
    terminal.line(&until(SECOND, "second"), "second-4")?;
    // The child is in front, so it gets the signal, and the shell lives on.
    let waiting = "sh -c 'trap \"echo caught-$((2+3)); exit 5\" INT; echo wai\"\"ting; while :; do sleep 0.1; done'; echo code-$?";
    terminal.line(waiting, "waiting\r\n")?;
    terminal.write(INTERRUPT)?;
    terminal.wait_for("caught-5")?;
    terminal.wait_for("code-5")
}

pub fn exec_has_a_terminal_that_follows_its_size_and_passes_keys(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("terminal-exec", |_, kubectl| {
        for node in ["server", "agent"] {
            pod_on(kubectl, node, node, "stdin: true")?;
            let mut terminal = Terminal::start(kubectl, FIRST, &["exec", "-it", node, "--", "sh"])?;
            try_shell(&mut terminal)?;
            terminal.write("exit 7\n")?;
            let status = terminal.wait()?;
            ensure!(status.code() == Some(7), "{status}: {}", terminal.output());
            terminal.wait_for("command terminated with exit code 7")?;
        }
        Ok(())
    })
}

pub fn attach_takes_over_the_terminal_of_a_container(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("terminal-attach", |_, kubectl| {
        let container = format!("{{name: c, image: '{BUSYBOX}', stdin: true, tty: true, command: [sh]}}");
        kubectl.apply_pod(
            "shell",
            "",
            &format!("nodeName: agent\nrestartPolicy: Never\ncontainers:\n- {container}"),
        )?;
        kubectl.wait_pod("shell")?;
        let mut terminal = Terminal::start(kubectl, FIRST, &["attach", "-it", "shell"])?;
        try_shell(&mut terminal)?;
        // Another client sees the same terminal while the first is there.
        let mut other = Terminal::start(kubectl, SECOND, &["attach", "-it", "shell"])?;
        other.line("echo both-$((3+3))", "both-6")?;
        terminal.wait_for("both-6")?;
        other.write("exit 3\n")?;
        terminal.wait()?;
        other.wait()?;
        let ended = kubectl.wait_ended("shell")?;
        let code = &ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"];
        ensure!(code == 3, "{code}");
        Ok(())
    })
}

pub fn run_with_rm_leaves_with_the_exit_code_and_no_pod(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("terminal-run", |_, kubectl| {
        let image = format!("--image={BUSYBOX}");
        let arguments = ["run", "once", "-it", "--rm", "--restart=Never", &image, "--", "sh"];
        let mut terminal = Terminal::start(kubectl, FIRST, &arguments)?;
        try_shell(&mut terminal)?;
        terminal.write("exit 4\n")?;
        let status = terminal.wait()?;
        ensure!(status.code() == Some(4), "{status}: {}", terminal.output());
        terminal.wait_for("pod \"once\" deleted")?;
        terminal.wait_for("pod terminal-run/once terminated (Error)")?;
        let left = kubectl.run(&["get", "pods", "-o", "name"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

pub fn debug_opens_a_shell_beside_a_container_and_on_a_node(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("terminal-debug", |_, kubectl| {
        pod_on(kubectl, "patient", "agent", "stdin: true")?;
        let image = format!("--image={BUSYBOX}");
        let beside = ["debug", "-it", "patient", &image, "--target=c", "-c", "doctor", "--", "sh"];
        let mut terminal = Terminal::start(kubectl, FIRST, &beside)?;
        try_shell(&mut terminal)?;
        // The processes of the target are in sight.
        terminal.line("ps -o args | grep -c '[w]hile read' | sed s/^/processes-/", "processes-1")?;
        terminal.write("exit\n")?;
        terminal.wait()?;
        let on_node = ["debug", "node/agent", "-it", &image, "--profile=general", "--", "sh"];
        let mut terminal = Terminal::start(kubectl, FIRST, &on_node)?;
        try_shell(&mut terminal)?;
        terminal.line("ls -d /host/etc | sed s/^/found/", "found/host/etc")?;
        terminal.write("exit\n")?;
        terminal.wait().map(drop)
    })
}
