import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { recoveryCommandLine } from '../../operations/wal-command-lines.ts';
import { RECOVERY_FILE } from '../../operations/recovery-file.ts';
import { verifyBackup, type VerifyPorts } from '../../operations/verify-backup.ts';
import { chooseMoments, missed, requestFor } from '../../scripts/lib/moments.ts';
import { startCanary, startLoad, type Commit } from '../support/canary.ts';
import { createPostgres } from '../support/postgres.ts';
import { createTestArchive, type TestArchive } from '../support/restored.ts';
import { makeTempDir } from '../support/temp.ts';
import { postgresBin } from '../support/tools.ts';

const NEVER = new AbortController().signal;
/** Few here; scripts/verify-moments asks for 50. */
const COUNT = Number(process.env['WALKEEP_MOMENTS'] ?? 3);
const SEED = process.env['WALKEEP_MOMENTS_SEED'] ?? 'moments';
const MINUTE = 60_000;

it(
  `C6, C4, O2: ${COUNT} verifications to random moments under load: each stops inside the right gap of the canary`,
  { timeout: (4 + COUNT) * MINUTE },
  async () => {
    const { archive, commits, endedAt } = await tellStory();
    const scratchRoot = join(makeTempDir('scratch'), 's');
    const state = makeTempDir('state');
    const ports: VerifyPorts = {
      repository: archive.repository,
      store: { kind: 'file', directory: archive.directory },
      reference: archive.ports.reference,
      restoreCommand: (socketPath) =>
        recoveryCommandLine({ recoveryFile: RECOVERY_FILE, stateDirectory: state, socketPath }),
      scratchRoot,
      binDirectory: postgresBin(15),
      instance: 'pg-1',
      walkeepVersion: '0.0.0-test',
    };
    const rto: number[] = [];
    const wrong: string[] = [];
    const moments = chooseMoments(commits, endedAt, COUNT, SEED);
    for (const [index, moment] of moments.entries()) {
      const base = {
        id: `20260101T000000-m${index}`,
        seed: SEED,
        namespace: 'default',
        cluster: 'pg',
        backup: 'latest',
        readBudget: null,
        scratch: { directory: null, minFree: '1%' },
        deadline: '10m',
      };
      const outcome = await verifyBackup(ports, requestFor(moment, base), { signal: NEVER });
      const why = missed(moment, outcome);
      if (why !== undefined) wrong.push(why);
      rto.push(outcome.verification.rtoSeconds ?? 0);
    }
    report({ moments: COUNT, right: COUNT - wrong.length, wrong, rto, commits: commits.length });
    expect(wrong).toEqual([]);
    expect(readdirSync(scratchRoot)).toEqual([]);
  },
);

/** A database under load, a backup in the middle, WAL behind it; then it is gone. */
async function tellStory(): Promise<{ archive: TestArchive; commits: readonly Commit[]; endedAt: Date }> {
  const archive = createTestArchive();
  const postgres = await createPostgres({ major: 15, archiveCommand: archive.archiveCommand });
  const load = await startLoad(postgres, { transactionsPerSecond: 150 });
  const canary = await startCanary(postgres);
  await canary.waitFor(5);
  const { endTime } = await archive.takeBackup(postgres, { jobs: 2 });
  const until = Date.now() + Math.max(8_000, COUNT * 800);
  while (Date.now() < until) {
    await sleep(4_000);
    await postgres.switchWal();
  }
  const commits = await canary.stop();
  await load?.stop();
  await postgres.waitUntilArchived(await postgres.switchWal());
  await postgres.kill9();
  return { archive, commits, endedAt: new Date(endTime) };
}

/** For scripts/verify-moments. */
function report(tally: object): void {
  const file = process.env['WALKEEP_MOMENTS_REPORT'];
  if (file !== undefined) writeFileSync(file, JSON.stringify(tally));
}
