# Sourced by scripts: how to make a virtual environment on a machine that may
# lack what its Python needs for that.

make_venv() {
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            echo "Installing python3-venv, which this Python lacks ..."
            apt-get -qq update
            apt-get -qq install -y python3-venv >/dev/null
        else
            echo "This Python cannot make virtual environments; on Debian, say:" \
                "sudo apt-get install python3-venv" >&2
            exit 1
        fi
    fi
    python3 -m venv "$1"
}
