# The examples source this file.  It makes a temporary folder, finds twistd and the users
# of the two sides, and at the end stops all processes that an example started.

source=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d "${TMPDIR:-/tmp}/portlisten.XXXXXX")
chmod 755 "$folder"
started=''

# End all started processes, the last first.
stop_all() {
    for process in $started; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    started=''
    rm -f "$folder"/*.process
}

# Whether a process runs: alive PROCESS
alive() {
    case $(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) in
    '' | Z* | X*) return 1 ;;
    esac
}

# Name the processes that ended by themselves, and show their logs.  Fail if none ended.
some_ended() {
    ended=1
    for file in "$folder"/*.process; do
        [ -e "$file" ] || continue
        alive "$(cat "$file")" && continue
        ended=0
        echo "the $(basename "$file" .process) ended by itself:"
        cat "${file%.process}.log"
        rm "$file"
    done >&2
    return "$ended"
}

clean_up() {
    status=$?
    trap - EXIT
    [ "$status" = 0 ] || some_ended || true
    stop_all
    rm -rf "$folder"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if [ "$(id -u)" = 0 ]; then
    usual_port=81
    as_listener='--uid nobody'
    as_worker='--uid daemon'
    channel='--group daemon'
else
    usual_port=10000
    as_listener='' as_worker='' channel=''
fi

# End the example if a program is missing: needs PROGRAM PACKAGE
needs() {
    command -v "$1" >/dev/null && return
    echo "this example needs $1; on Debian, say: apt-get install $2" >&2
    exit 1
}
[ "$(id -u)" != 0 ] || needs setpriv util-linux

# Install portlisten, and more: install [REQUIREMENT ...]
install() {
    . "$source/tests/venv.sh"
    echo "Installing into $folder ..."
    make_venv "$folder/venv"
    # A copy, since building leaves files behind.
    mkdir "$folder/source"
    (cd "$source" && cp -R --parents portlisten twisted docs/man contrib/zsh setup.py \
        pyproject.toml MANIFEST.in README.md LICENSE "$folder/source")
    "$folder/venv/bin/pip" install --quiet "$folder/source" "$@"
    bin=$folder/venv/bin
}

# Use the environment that tests/run has made, if the workers' user can read it, too.
# Otherwise install.
find_or_install() {
    bin=$source/.venv/bin
    if ! "$bin/python" -c 'import portlisten, OpenSSL' 2>/dev/null ||
        { [ "$(id -u)" = 0 ] && ! setpriv --reuid daemon --clear-groups \
            "$bin/python" -c 'import portlisten.endpoints' 2>/dev/null; }; then
        install 'twisted[tls]'
    fi
}

# Show a command: show ARGUMENTS...
show() {
    shown=''
    for argument; do
        case $argument in
        *[!A-Za-z0-9_./:=,-]*) shown="$shown '$argument'" ;;
        *) shown="$shown $argument" ;;
        esac
    done
    echo "\$$shown"
}

# Show a twistd command, and start it in the background: start NAME ARGUMENTS...
start() {
    name=$1
    shift
    show twistd --nodaemon "$@"
    : >"$name.log"
    "$bin/twistd" --nodaemon --pidfile "$name.pid" "$@" >"$name.log" 2>&1 &
    note "$name" "$!"
}

# The same for any other program: start_program NAME PROGRAM ARGUMENTS...
start_program() {
    name=$1
    shift
    show "$@"
    : >"$name.log"
    "$@" >"$name.log" 2>&1 &
    note "$name" "$!"
}

# Note a running process that must not end by itself: note NAME PROCESS
note() {
    started="$2 $started"
    echo "$2" >"$folder/$1.process"
}

# Tell a process to end, and do not wait for it: end NAME
end() {
    process=$(cat "$1.process")
    rm "$1.process"
    kill "$process"
}

# Wait until the log of a process has a line: wait_for NAME PATTERN
wait_for() {
    for _ in $(seq 300); do
        grep -q "$2" "$1.log" && return
        if some_ended; then exit 1; fi
        sleep 0.1
    done
    echo "the $1 did not start:" >&2
    cat "$1.log" >&2
    exit 1
}

# Connect as a client that says nothing, and print the answer: hear PORT
hear() {
    "$bin/python" - "$1" <<'END'
import socket, sys

client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
print(client.makefile().read())
END
}
