"""
Makes the manual pages from the options and help of the commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from portlisten._commands import (
    as_port,
    check,
    deny,
    drain,
    each,
    execute,
    hellofdpass,
    listener,
    pause,
    reload,
    restart,
    run,
    status,
    stop,
    upgrade,
)
from portlisten._commands.options import CommandOptions
from portlisten._config.options import WIRES, Option, optionsOf
from portlisten._config.values import Flag

_SERVICE_EXIT = """\
0 after SIGTERM. 1 if the command cannot start: then one line on standard error says
why.
"""


@dataclass(frozen=True)
class Page:
    """
    A manual page.

    @ivar name: the name of the page.
    @ivar section: the section of the manual.
    @ivar brief: the purpose of the command, in half a sentence.
    @ivar options: the command's options.
    @ivar exits: the text on exit codes.
    @ivar signals: the effect of each signal.
    @ivar also: the names of other pages.
    """

    name: str
    section: int
    brief: str
    options: type[CommandOptions]
    exits: str
    signals: dict[str, str]
    also: str


PAGES = [
    Page(
        "portlisten",
        8,
        "bind ports with privilege, and hand their connections to unprivileged workers",
        listener.Options,
        _SERVICE_EXIT,
        {
            "SIGTERM": "The listener hands off the connections that wait, and exits.",
            "SIGUSR1": "The listener logs what became of all connections. It does the"
            " same when it stops.",
            "SIGHUP, SIGUSR2": "The listener logs that the signal means nothing, and"
            " goes on.",
        },
        "portlisten-run(8), hellofdpass(8), portlisten-drain(1), portlisten-each(1),"
        " portlisten-exec(1), twistd(1)",
    ),
    Page(
        "hellofdpass",
        8,
        "a worker of portlisten that answers each connection with a string",
        hellofdpass.Options,
        _SERVICE_EXIT,
        {
            "SIGTERM": "The worker finishes the connections in service, and exits.",
            "SIGUSR1": "The worker logs how many connections it serves.",
            "SIGHUP, SIGUSR2": "The worker logs that the signal means nothing, and"
            " goes on.",
        },
        "portlisten(8), portlisten-exec(1), twistd(1)",
    ),
    Page(
        "portlisten-run",
        8,
        "run a listener and its workers as one file says",
        run.RunOptions,
        "0 after SIGTERM, SIGINT or portlisten-stop(1). 1 if the command cannot start:"
        " then one line on standard error says why. 1 as well if the listener has"
        " failed too often, or if a worker was given up at the time of the stop.",
        {
            "SIGTERM, SIGINT": "The listener hands off the connections that wait, and"
            " ends. Then the workers get SIGTERM, and the command exits.",
            "SIGUSR1": "The supervisor logs its state in one line.",
            "SIGHUP": "The supervisor reads the file again, and changes what runs to"
            " what it says, as portlisten-reload(1) does. It logs what changes, or each"
            " mistake.",
            "SIGUSR2": "The supervisor logs that the signal means nothing, and goes"
            " on.",
        },
        "portlisten-check(1), portlisten-status(1), portlisten-reload(1),"
        " portlisten-restart(1), portlisten-stop(1), portlisten(8), twistd(1)",
    ),
    Page(
        "portlisten-exec",
        1,
        "run any program on the ports that a listener shares",
        execute.ExecOptions,
        "127 if PROGRAM does not exist, 126 if PROGRAM cannot be executed, 1 if"
        " anything else fails. Otherwise the exit status is PROGRAM's.",
        {},
        "portlisten(8), portlisten-each(1), sd_listen_fds(3), systemd.socket(5)",
    ),
    Page(
        "portlisten-each",
        1,
        "start a program for each connection of a listener",
        each.EachOptions,
        "0 after SIGTERM or SIGINT. 127 if PROGRAM does not exist, 126 if PROGRAM is"
        " not executable, 1 if anything else fails: then one line on standard error"
        " says why.",
        {
            "SIGTERM, SIGINT": "The command takes no more connections, and waits for"
            " the processes. The second signal ends the processes, and the third one"
            " kills them.",
            "SIGHUP, SIGUSR1, SIGUSR2": "The command logs that the signal means"
            " nothing, and goes on.",
        },
        "portlisten(8), portlisten-exec(1), portlisten-drain(1), inetd(8),"
        " systemd.socket(5)",
    ),
    Page(
        "portlisten-as-port",
        1,
        "run a Twisted program that takes only a port number",
        as_port.AsPortOptions,
        "127 if PROGRAM does not exist, 126 if PROGRAM is no program for this Python, 1"
        " if a mapping cannot be used. Otherwise the exit status is PROGRAM's.",
        {},
        "portlisten(8), portlisten-exec(1), portlisten-drain(1), twistd(1)",
    ),
    Page(
        "portlisten-check",
        1,
        "say what portlisten run would run, and what is wrong with its file",
        check.CheckOptions,
        "0 if the file can be run, 1 if it has mistakes or the arguments are wrong.",
        {},
        "portlisten-run(8), portlisten-status(1)",
    ),
    Page(
        "portlisten-status",
        1,
        "show what a listener, its supervisor and its workers do",
        status.StatusOptions,
        "0 if all is well. 1 if something is wrong: the first lines say what. 2 if the"
        " listener cannot be asked, or the arguments are wrong.",
        {"SIGINT": "With --watch, the command exits as the last answer says."},
        "portlisten-run(8), portlisten-restart(1), portlisten-stop(1),"
        " portlisten-drain(1), portlisten(8)",
    ),
    Page(
        "portlisten-restart",
        1,
        "replace workers, one after the other, without losing a connection",
        restart.RestartOptions,
        "0 if all workers are replaced. 1 if a new worker did not get ready: the old"
        " ones serve on. 2 if the supervisor cannot be asked, or the arguments are"
        " wrong. 130 after SIGINT.",
        {"SIGINT": "The command exits. The restart goes on."},
        "portlisten-run(8), portlisten-status(1), portlisten-stop(1),"
        " portlisten-drain(1), portlisten(8)",
    ),
    Page(
        "portlisten-reload",
        1,
        "change what runs to what the file says, without losing a connection",
        reload.ReloadOptions,
        "0 if all is done, or nothing changes. 1 if the file is wrong, or not all of it"
        " can change: then nothing has changed. 1 as well if the reload failed. 2 if"
        " the supervisor cannot be asked, or the arguments are wrong. 130 after"
        " SIGINT.",
        {"SIGINT": "The command exits. The reload goes on."},
        "portlisten-run(8), portlisten-check(1), portlisten-status(1),"
        " portlisten-restart(1), portlisten-stop(1)",
    ),
    Page(
        "portlisten-upgrade",
        1,
        "replace the listener of a supervisor, without refusing a client",
        upgrade.UpgradeOptions,
        "0 if the listener is replaced. 1 if the new one did not take over: the old one"
        " goes on. 2 if the supervisor cannot be asked, or the arguments are wrong. 130"
        " after SIGINT.",
        {"SIGINT": "The command exits. The replacement goes on."},
        "portlisten-run(8), portlisten-reload(1), portlisten-restart(1),"
        " portlisten-status(1), portlisten(8)",
    ),
    Page(
        "portlisten-stop",
        1,
        "stop a supervisor, with its listener and its workers",
        stop.StopOptions,
        "0 if the supervisor has ended. 1 if the time is over: the supervisor goes on"
        " to stop. 2 if it cannot be asked, or the arguments are wrong. 130 after"
        " SIGINT.",
        {"SIGINT": "The command exits. The supervisor goes on to stop."},
        "portlisten-run(8), portlisten-status(1), portlisten-restart(1), systemctl(1)",
    ),
    Page(
        "portlisten-drain",
        1,
        "let workers of a listener finish what they serve",
        drain.DrainOptions,
        "0 if all workers are drained, or have left. 1 if the time is over. 2 if the"
        " listener cannot be asked, or the arguments are wrong. 130 after SIGINT.",
        {"SIGINT": "The command exits. The workers stay drained."},
        "portlisten-undrain(1), portlisten(8)",
    ),
    Page(
        "portlisten-deny",
        1,
        "reset new connections of an address, or list these addresses",
        deny.DenyOptions,
        "0 if the addresses are denied, or listed. 2 if the listener cannot be asked,"
        " or the arguments are wrong.",
        {},
        "portlisten-allow(1), portlisten-status(1), portlisten(8), fail2ban(1)",
    ),
    Page(
        "portlisten-allow",
        1,
        "let clients of an address come in again",
        deny.AllowOptions,
        "0 if the addresses are not denied. 1 if one is still denied, by the settings"
        " or as a part of a larger network. 2 if the listener cannot be asked, or the"
        " arguments are wrong.",
        {},
        "portlisten-deny(1), portlisten(8)",
    ),
    Page(
        "portlisten-pause",
        1,
        "let load balancers send clients elsewhere",
        pause.PauseOptions,
        "0 if the listener is paused. 2 if it cannot be asked, or the arguments are"
        " wrong.",
        {},
        "portlisten-resume(1), portlisten-drain(1), portlisten-stop(1), portlisten(8)",
    ),
    Page(
        "portlisten-resume",
        1,
        "let load balancers send clients here again",
        pause.ResumeOptions,
        "0 if the listener is not paused any more. 2 if it cannot be asked, or the"
        " arguments are wrong.",
        {},
        "portlisten-pause(1), portlisten-undrain(1), portlisten(8)",
    ),
    Page(
        "portlisten-undrain",
        1,
        "let drained workers of a listener serve again",
        drain.UndrainOptions,
        "0 if all workers serve. 1 if the time is over. 2 if the listener cannot be"
        " asked, or the arguments are wrong. 130 after SIGINT.",
        {},
        "portlisten-drain(1), portlisten(8)",
    ),
]


def write(page: Page) -> str:
    """
    Write a page.
    """
    return "\n".join(line for line in _lines(page) if line) + "\n"


def _lines(page: Page) -> Iterator[str]:
    options = page.options
    yield '.\\" Made by docs/options.py: change the settings instead.'
    # A hyphen at the end of a line would look like a part of an option's name.
    yield ".nr HY 0"
    yield f'.TH {page.name.upper()} {page.section} "" portlisten'
    yield ".SH NAME"
    yield _plain(page.name) + r" \- " + _plain(page.brief)
    yield ".SH SYNOPSIS"
    before = r"[\fItwistd options\fR] " if options.program else ""
    yield (
        rf"\fB{options.program}\fR{before}\fB{options.command}\fR"
        rf" {_plain(options.synopsis)}"
    )
    description, _, examples = options.epilogue.partition("\nExamples")
    where, _, examples = examples.partition("\n")
    yield ".SH DESCRIPTION"
    yield _plain(options.longdesc)
    yield from _paragraphs(description)
    yield ".SH OPTIONS"
    given = [each for each in optionsOf(options.settingsType) if each.onCommandLine]
    for option in given:
        yield from _option(option, given)
    yield from [".TP", r"\fB\-\-help\fR", "Print a summary of this, and exit."]
    yield from [".TP", r"\fB\-\-version\fR"]
    yield "Print portlisten's version and Twisted's, and exit."
    described = [each for each in optionsOf(options.settingsType) if each.inDescription]
    if any(not each.onCommandLine for each in described):
        yield from _endpoint(described)
    yield ".SH EXIT STATUS"
    yield _plain(page.exits)
    if page.signals:
        yield ".SH SIGNALS"
    for signal, effect in page.signals.items():
        yield from [".TP", rf"\fB{signal}\fR", _plain(effect)]
    yield ".SH EXAMPLES"
    if where != ":":
        yield _plain("With" + where.removeprefix(", with"))
    yield from _paragraphs(examples)
    yield ".SH SEE ALSO"
    yield ",\n".join(
        rf"\fB{name}\fR({section})"
        for name, section in re.findall(r"([\w.-]+)\((\d)\)", page.also)
    ).replace("-", r"\-")


def _endpoint(options: list[Option]) -> Iterator[str]:
    yield ".SH ENDPOINT DESCRIPTIONS"
    yield _plain(
        "If a Twisted server takes an endpoint description, portlisten:PATH makes it a"
        " worker. Any of these options may follow, each with a colon before it."
    )
    for option in options:
        comma = ",..." if option.several else ""
        yield ".TP"
        yield rf"\fB{option.describedName}=\fR{_value(option)}{comma}"
        note = meaningless(option, options, lambda other: f"`{other.describedName}`")
        yield from _body(option, option.explain("wire="), note)


def meaningless(
    option: Option, options: list[Option], write: Callable[[Option], str]
) -> str:
    """
    Explain which options mean nothing with the wire that is not the default.

    @param option: the option whose text gets the explanation.
    @param options: all options of the command or of the endpoint.
    @param write: writes the name of an option.
    @return: a sentence, or nothing if the option does not choose the wire.
    """
    if option.name != "wire":
        return ""
    (_, other) = WIRES
    names = [write(each) for each in options if other not in each.wires]
    return f"With `{other}`, {', '.join(names[:-1])} and {names[-1]} mean nothing."


def _option(option: Option, options: list[Option]) -> Iterator[str]:
    yield ".TP"
    name = rf"\fB\-\-{option.name.replace('-', chr(92) + '-')}\fR"
    yield name if isinstance(option.type, Flag) else f"{name}={_value(option)}"
    text = option.explain("--wire=", "; may be given several times")
    note = meaningless(option, options, lambda other: f"`--{other.name}`")
    yield from _body(option, text, option.more, note)


def _body(option: Option, *sentences: str) -> Iterator[str]:
    default = option.defaultText()
    yield _plain(" ".join(filter(None, sentences)))
    if default:
        yield _plain(f"[default: {default}]")


def _value(option: Option) -> str:
    words = option.type.metavar.split("|")
    text = "|".join(rf"\f{'I' if word.isupper() else 'B'}{word}\fR" for word in words)
    return text.replace("-", r"\-").replace("…", r"\|.\|.\|.")


def _paragraphs(text: str) -> Iterator[str]:
    """
    Set text.  Indented lines keep their line breaks.
    """
    for part in re.findall(r"(?:^  .*\n?)+|(?:^(?!  ).+\n?)+", text, re.MULTILINE):
        if part.startswith("  "):
            yield from [".PP", ".EX", _escape(part.rstrip("\n")), ".EE"]
        else:
            yield from [".PP", _plain(" ".join(part.split()))]


def _plain(text: str) -> str:
    """
    Set text to be filled.  Code is bold, and keeps its hyphens.
    """
    text = text.strip().replace("\\", "\\e")
    text = re.sub(
        r"(?<!\w)--?[a-z][\w-]*", lambda word: word[0].replace("-", r"\-"), text
    )
    text = re.sub(r"`([^`]*)`", lambda code: rf"\fB{code[1]}\fR", text)
    return re.sub(r"^([.'])", r"\\&\1", text)


def _escape(text: str) -> str:
    """
    Set text that keeps its line breaks.
    """
    text = text.replace("\\", "\\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)
