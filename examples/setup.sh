# Sourced by the examples: a temporary folder to be in, twistd, who is to run
# what, and the end of all that was started.

source=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d "${TMPDIR:-/tmp}/portlisten.XXXXXX")
chmod 755 "$folder"
started=''

# End all that was started, the last first.
stop_all() {
    for process in $started; do
        { kill "$process" && wait "$process"; } 2>/dev/null || true
    done
    started=''
}

clean_up() {
    trap - EXIT
    stop_all
    rm -rf "$folder"
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

# Install into the folder, with what else pip is to install.
install() {
    . "$source/tests/venv.sh"
    echo "Installing into $folder ..."
    make_venv "$folder/venv"
    # A copy, since building leaves files behind.
    mkdir "$folder/source"
    (cd "$source" && cp -R portlisten twisted setup.py pyproject.toml MANIFEST.in \
        README.md LICENSE "$folder/source")
    "$folder/venv/bin/pip" install --quiet "$folder/source" "$@"
    bin=$folder/venv/bin
}

# Take what tests/run has installed, if the workers' user can read it too.
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

# Start twistd in the background, after showing how: start NAME ARGUMENTS...
start() {
    name=$1
    shift
    show twistd --nodaemon "$@"
    : >"$name.log"
    "$bin/twistd" --nodaemon --pidfile "$name.pid" "$@" >"$name.log" 2>&1 &
    started="$! $started"
}

# The same for any other program: start_program NAME PROGRAM ARGUMENTS...
start_program() {
    name=$1
    shift
    show "$@"
    : >"$name.log"
    "$@" >"$name.log" 2>&1 &
    started="$! $started"
}

# Wait until what was started has logged something: wait_for NAME PATTERN
wait_for() {
    for _ in $(seq 300); do
        grep -q "$2" "$1.log" && return
        sleep 0.1
    done
    echo "the $1 did not start:" >&2
    cat "$1.log" >&2
    exit 1
}

# Be a client that says nothing, and print the answer: hear PORT
hear() {
    "$bin/python" - "$1" <<'END'
import socket, sys

client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
print(client.makefile().read())
END
}
