import { spawn } from 'node:child_process';
import { closeSync, constants, fsyncSync, openSync } from 'node:fs';
import { opendir } from 'node:fs/promises';
import { join } from 'node:path';
import { BackupError } from '../core/errors.ts';

/** Makes a file, or the names in a directory, durable. */
export function syncPath(path: string): void {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * Makes everything below the directories durable: one pass of the kernel over each file system, where the system's
 * `sync` can do that, otherwise every file and directory by itself.
 */
export async function syncTrees(directories: readonly string[], signal: AbortSignal): Promise<void> {
  if (process.platform === 'linux' && (await syncFileSystems(directories, signal))) return;
  for (const directory of directories) {
    // it does not go through links: tablespaces are directories of their own here
    for await (const entry of await opendir(directory, { recursive: true })) {
      signal.throwIfAborted();
      if (entry.isFile() || entry.isDirectory()) syncPath(join(entry.parentPath, entry.name));
    }
    syncPath(directory);
  }
}

/**
 * @returns false where the system has no such program, or one that can't do it
 * @throws BackupError `disk-full` | `data-unreadable` when the kernel could not write what it had accepted
 */
async function syncFileSystems(directories: readonly string[], signal: AbortSignal): Promise<boolean> {
  const { code, complaint } = await new Promise<{ code: number | null; complaint: string }>(
    (resolve, reject) => {
      const child = spawn('sync', ['-f', ...directories], {
        stdio: ['ignore', 'ignore', 'pipe'],
        // not ours: it may hold keys
        env: { PATH: process.env['PATH'], LC_ALL: 'C' },
        signal,
      });
      let words = '';
      child.stderr.on('data', (text: Buffer) => (words += text.toString('utf8').slice(0, 2000)));
      child.once('error', () =>
        signal.aborted ? reject(signal.reason) : resolve({ code: 127, complaint: '' }),
      );
      child.once('close', (exit) => resolve({ code: exit, complaint: words }));
    },
  );
  // The kernel reports such a failure once: asking it again, file by file, would look like success.
  if (/no space left|quota/i.test(complaint))
    throw new BackupError('disk-full', `the restored files could not be written: ${complaint.trim()}`);
  if (/input\/output error/i.test(complaint)) {
    throw new BackupError('data-unreadable', `the restored files could not be written: ${complaint.trim()}`, {
      hint: 'look at the disk (dmesg); the directory was not made startable',
    });
  }
  return code === 0;
}
