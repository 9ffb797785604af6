import { chmod, lstat, mkdir, rename, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';
import { BackupError } from '../core/errors.ts';

export interface PrivateSocket {
  /** Takes no new connections and removes the socket, if it is still this one. */
  close(): Promise<void>;
}

/** `sizeof(sockaddr_un.sun_path)` on Linux, less the terminating zero and the process id it is bound with at first. */
const LONGEST_PATH_BYTES = 107 - '.4194304'.length;

/**
 * Listens on a unix socket that only this user can reach: 0600 in a directory of 0700 (S7). What a dead process left
 * under the name is replaced; a live one is left alone. Two that start in the same instant may both get through: the
 * later one answers then, and nothing is lost, since clients that hear nothing do the work themselves.
 *
 * @throws BackupError `config-invalid`
 */
export async function listenPrivately(server: Server, path: string): Promise<PrivateSocket> {
  if (Buffer.byteLength(path) > LONGEST_PATH_BYTES) {
    throw new BackupError(
      'config-invalid',
      `the socket's path is longer than ${LONGEST_PATH_BYTES} bytes: ${path}`,
      {
        hint: 'choose a state directory with a shorter path (WALKEEP_STATE)',
      },
    );
  }
  await makePrivate(dirname(path));
  await refuseLive(path);
  // Bound under a name of its own and then moved into place: it is never reachable with the wrong mode, and Node,
  // which removes the path it bound when it closes, can not remove a successor's socket.
  const own = `${path}.${process.pid}`;
  await unlink(own).catch(() => undefined);
  await listen(server, own);
  await chmod(own, 0o600);
  const { ino } = await lstat(own);
  await rename(own, path);
  return {
    async close() {
      const now = await lstat(path).catch(() => undefined);
      if (now?.ino === ino) await unlink(path).catch(() => undefined);
      server.close();
    },
  };
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((done, fail) => {
    const refused = (error: Error) =>
      fail(new BackupError('config-invalid', `cannot listen on ${path}: ${error.message}`, { cause: error }));
    server.once('error', refused);
    server.listen(path, () => {
      server.removeListener('error', refused);
      done();
    });
  });
}

async function makePrivate(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const { uid, mode } = await lstat(directory);
  const self = process.geteuid?.();
  if (uid !== self) {
    throw new BackupError('config-invalid', `${directory} belongs to user ${uid}, expected ${self}`, {
      hint: 'the worker has to run as the owner of PGDATA and of its state directory',
    });
  }
  if ((mode & 0o077) !== 0) await chmod(directory, 0o700);
}

async function refuseLive(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (!found) return;
  if (!found.isSocket()) {
    throw new BackupError('config-invalid', `${path} is in the way: it is not a socket`);
  }
  if (await isAlive(path)) {
    throw new BackupError('config-invalid', `another agent listens on ${path}`, {
      hint: 'one walkeep worker per data directory: stop the other one first',
    });
  }
}

/** Whether anybody accepts connections there. A process that is stopped still does. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect(path);
    socket.setTimeout(1_000);
    const settle = (alive: boolean) => {
      socket.destroy();
      done(alive);
    };
    socket.once('connect', () => settle(true));
    socket.once('timeout', () => settle(true));
    socket.once('error', (error: NodeJS.ErrnoException) => settle(error.code === 'EAGAIN'));
  });
}
