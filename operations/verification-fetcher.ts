import { join } from 'node:path';
import { BackupError } from '../core/errors.ts';
import type { Repository } from '../repository/repository.ts';
import type { ArchiveSource } from './archive-source.ts';
import { fetchWal } from './fetch-wal.ts';
import { readRecoveryFile } from './recovery-file.ts';
import type { Scratch } from './verification-scratch.ts';
import { createWalAgent } from './wal-agent.ts';

/** C5: nothing of a copy is ever archived, whoever asks. */
const NOWHERE: ArchiveSource = {
  current: () => Promise.reject(new BackupError('not-yet', 'a verification archives nothing')),
  opened: () => undefined,
  forget: () => {},
  close: async () => {},
};

/**
 * Answers the copy's `restore_command` from this process, where a fetch takes a tenth of the time that a new process
 * takes. Where that can't be (the copy belongs to another user, or the path is too long for a socket), the command does
 * the work by itself.
 */
export async function startFetcher(
  repository: Repository,
  scratch: Scratch,
): Promise<{ stop(): Promise<void> }> {
  const nobody = { stop: async () => {} };
  if (scratch.owner) return nobody;
  const file = await readRecoveryFile(scratch.data);
  const agent = createWalAgent({
    socketPath: join(scratch.socketDirectory, 'wal.sock'),
    pgdata: scratch.data,
    source: NOWHERE,
    fetch: (name, destination, options) =>
      fetchWal({ repository: async () => repository, plan: file?.plan }, name, destination, options),
  });
  try {
    await agent.start();
  } catch (error) {
    if (error instanceof BackupError) return nobody;
    throw error;
  }
  return { stop: () => agent.stop({ drainMs: 1000 }) };
}
