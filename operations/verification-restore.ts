import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { restore, type RestoredBackup } from './restore.ts';
import type { ChosenVerification, VerificationSize } from './verification-choice.ts';
import { Damage, finding, isDamage } from './verification-damage.ts';
import { checkManifest } from './verification-manifest.ts';
import type { Scratch } from './verification-scratch.ts';
import { DEFAULT_NICE, seconds, type Copy, type Run } from './verification-run.ts';

const DEFAULT_JOBS = 2;

/**
 * Fetches, hashes and unpacks a backup into its scratch directory. What came damaged is read once more: the damage may
 * have come on the way.
 *
 * @throws Damage naming the object; BackupError `disk-full` and what the store throws
 */
export async function restoreTwice(
  run: Run,
  chosen: ChosenVerification,
  scratch: Scratch,
  size: VerificationSize,
): Promise<RestoredBackup> {
  try {
    return await restoreCopy(run, chosen, scratch, size);
  } catch (error) {
    if (!isDamage(error)) throw error;
    run.signal.throwIfAborted();
    for (const path of [scratch.data, ...tablespacesOf(chosen, scratch).values()])
      rmSync(path, { recursive: true, force: true });
    const restored = await finding('hashes', () => restoreCopy(run, chosen, scratch, size));
    run.evidence.warn(`the first reading was damaged, the second was not: ${error.message}`);
    return restored;
  }
}

async function restoreCopy(
  { ports, request, evidence, signal, onProgress }: Run,
  chosen: ChosenVerification,
  scratch: Scratch,
  size: VerificationSize,
): Promise<RestoredBackup> {
  const began = performance.now();
  const restored = await restore(
    {
      repository: ports.repository,
      store: ports.store,
      reference: ports.reference,
      restoreCommand: ports.restoreCommand(join(scratch.socketDirectory, 'wal.sock')),
    },
    {
      plan: chosen.plan,
      targetDirectory: scratch.data,
      tablespaces: Object.fromEntries(tablespacesOf(chosen, scratch)),
      jobs: request.jobs ?? DEFAULT_JOBS,
      ...(scratch.owner && { owner: `${scratch.owner.uid}:${scratch.owner.gid}` }),
    },
    {
      signal,
      onProgress: ({ doneBytes, totalBytes }) => {
        // Also when it comes to nothing: what was read counts for the budget.
        evidence.measure({ storedBytes: doneBytes });
        onProgress({ phase: 'restoring', doneBytes, totalBytes });
      },
    },
  );
  evidence.measure({
    fetchSeconds: seconds(performance.now() - began),
    contentBytes: restored.contentBytes,
    storedBytes: size.storedBytes,
  });
  evidence.addCheck(
    restored.isVerified
      ? {
          name: 'hashes',
          result: 'passed',
          detail: `${restored.files} files; every part has its recorded size and hash`,
        }
      : {
          name: 'hashes',
          result: 'skipped',
          detail: 'the backup has no recorded hashes; its tars were read strictly',
        },
  );
  for (const warning of restored.warnings) evidence.warn(warning);
  return restored;
}

/** Directories of this copy by tablespace name: never where they were at the source. */
function tablespacesOf({ info }: ChosenVerification, scratch: Scratch): Map<string, string> {
  return new Map(info.tablespaces.map(({ name, oid }) => [name, join(scratch.tablespaces, String(oid))]));
}

/** Compares the files with the backup's manifest. @throws Damage naming the file */
export async function checkAgainstManifest({ run, chosen, scratch, programs }: Copy): Promise<void> {
  run.onProgress({ phase: 'manifest', doneBytes: 0, totalBytes: 0 });
  const began = performance.now();
  const check = await finding('manifest', () =>
    checkManifest({
      repository: run.ports.repository,
      backupId: chosen.plan.backupId,
      scratch,
      programs,
      nice: run.request.nice ?? DEFAULT_NICE,
      signal: run.signal,
    }),
  );
  if (check.result === 'failed') throw new Damage(check);
  run.evidence.addCheck({ ...check, seconds: seconds(performance.now() - began) });
}
