import { spawn } from 'node:child_process';
import { createWriteStream, existsSync } from 'node:fs';
import { chown } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { VerificationCheck } from '../core/verification.ts';
import { readBackupManifest } from '../repository/backup-record.ts';
import type { Repository } from '../repository/repository.ts';
import type { Scratch } from './verification-scratch.ts';

/** A restore writes or changes these; PostgreSQL's tool knows of the others it writes. */
const OURS = [
  'walkeep_recovery.json',
  'tablespace_map',
  'global/pg_control',
  'postgresql.auto.conf',
  'postgresql.conf',
  'pg_hba.conf',
  'pg_ident.conf',
];
const OUTPUT_BYTES = 64 * 1024;
const NAMED = 5;

export interface ManifestCheck {
  readonly repository: Repository;
  readonly backupId: string;
  readonly scratch: Scratch;
  readonly programs: string;
  readonly nice: number;
  readonly signal: AbortSignal;
}

/**
 * Compares the restored files with the `backup_manifest` that was made when the backup was taken, by PostgreSQL's own
 * `pg_verifybackup`: every file, its size and its checksum. To be done before the copy is started.
 *
 * @throws BackupError what the store throws
 */
export async function checkManifest(check: ManifestCheck): Promise<VerificationCheck> {
  const { repository, backupId, scratch, programs, signal } = check;
  const name = 'manifest';
  const program = join(programs, 'pg_verifybackup');
  if (!existsSync(program))
    return { name, result: 'skipped', detail: `there is no pg_verifybackup in ${programs}` };
  const manifest = await readBackupManifest(repository, backupId, signal);
  if (manifest === undefined) return { name, result: 'skipped', detail: 'the backup has no backup_manifest' };
  const file = join(scratch.directory, 'backup_manifest');
  await pipeline(manifest, createWriteStream(file, { mode: 0o600, flags: 'wx' }), { signal });
  if (scratch.owner) await chown(file, scratch.owner.uid, scratch.owner.gid);
  const args = [
    '--no-parse-wal',
    '--manifest-path',
    file,
    ...OURS.map((path) => `--ignore=${path}`),
    scratch.data,
  ];
  const { code, output } = await run(program, args, check);
  const complaints = output.split('\n').filter((line) => /error:/.test(line) && !isOfConfiguration(line));
  if (complaints.length === 0 && (code === 0 || /error:/.test(output))) {
    return { name, result: 'passed', detail: 'every file is as pg_verifybackup expects it' };
  }
  const said = complaints.map((line) => line.replace(/^pg_verifybackup: error: /, ''));
  const object = /"([^"]+)"/.exec(said[0] ?? '')?.[1];
  return {
    name,
    result: 'failed',
    ...(object !== undefined && { object }),
    detail:
      said.length > 0
        ? said.slice(0, NAMED).join('; ')
        : `pg_verifybackup ended with ${code}: ${output.slice(-500)}`,
  };
}

/** A restore comments out, in configuration files, what would lead the copy back to its source. */
function isOfConfiguration(line: string): boolean {
  return /"[^"]+\.conf"/.test(line);
}

async function run(
  program: string,
  args: readonly string[],
  { scratch, nice, signal }: ManifestCheck,
): Promise<{ code: number; output: string }> {
  return new Promise((resolve, reject) => {
    let output = '';
    const child = spawn(program, args, {
      cwd: scratch.directory,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { PATH: process.env['PATH'], LD_LIBRARY_PATH: process.env['LD_LIBRARY_PATH'], LC_ALL: 'C' },
      signal,
      ...scratch.owner,
    });
    if (child.pid !== undefined) {
      try {
        setPriority(child.pid, nice);
      } catch {
        // it has ended already
      }
    }
    child.stderr.on('data', (chunk: Buffer) => {
      if (output.length < OUTPUT_BYTES) output += chunk.toString('utf8');
    });
    child.once('error', (error) => reject(signal.aborted ? (signal.reason as Error) : error));
    child.once('close', (code) => resolve({ code: code ?? 1, output }));
  });
}
