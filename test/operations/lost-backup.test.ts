/** A Backup whose run is gone and that told nobody how it ended (fault 14). */
import { beforeEach, describe, expect, it } from 'vitest';
import { slotBackupName } from '../../core/slots.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { considerSlot } from '../../operations/schedule-slots.ts';
import { readOutcome, writeOutcome } from '../../repository/outcome.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { NEVER, putBenchBackup } from './sweep-bench.ts';

const HOUR = 3_600_000;
const T = new Date('2026-11-24T02:00:00Z');
const hours = (count: number) => new Date(T.getTime() + count * HOUR);
const nameAt = (count: number) => slotBackupName('s', hours(count));
const LOST = nameAt(0);

let r: Repository;
/** Of which Backups somebody asked whether they still run. */
let asks: string[];
beforeEach(() => {
  r = createRepository(createMemoryStore(), 'pg');
  asks = [];
});

/** As a run of a schedule does it: asks what it is told to ask, and comes again. */
async function decideAt(count: number, open: readonly string[] = []) {
  const slot = hours(count);
  const question = {
    series: 's',
    schedule: scheduledBackupSchema.parse({
      apiVersion: 'postgresql.cnpg.io/v1',
      kind: 'ScheduledBackup',
      metadata: { name: 's' },
      spec: { schedule: '0 0 * * * *', cluster: { name: 'pg' } },
    }),
    key: slot,
    slot,
    now: slot,
    backupName: nameAt(count),
    deadlineMs: 12 * HOUR,
  };
  let answer = await considerSlot(r, question, NEVER);
  for (let more = 5; 'ask' in answer && more > 0; more -= 1) {
    const asked = { backupName: answer.ask, isOpen: open.includes(answer.ask) };
    asks.push(answer.ask);
    answer = await considerSlot(r, { ...question, asked }, NEVER);
  }
  if ('ask' in answer) throw new Error(`still asks about ${answer.ask}`);
  return answer.record;
}

async function end(count: number): Promise<void> {
  const outcome = { version: 1 as const, backupName: nameAt(count), status: { phase: 'completed' } };
  await writeOutcome(
    r,
    { ...outcome, recordedAt: hours(count).toISOString() },
    { mode: 'create', signal: NEVER },
  );
}

describe('a Backup that left no outcome', () => {
  it('F2, F6, fault 14: and does not run is failed for the next slot after its deadline, which runs', async () => {
    await decideAt(0);
    expect(await decideAt(24)).toMatchObject({ outcome: 'ran', backupName: nameAt(24) });
    expect(asks).toEqual([LOST]);
    expect(await readOutcome(r, LOST, NEVER)).toMatchObject({
      namespace: 'default',
      cluster: 'pg',
      status: { phase: 'failed', error: expect.stringContaining("lost with Temporal's state") },
    });
  });

  it('F6, fault 14: is found behind those of later slots, and asked about once', async () => {
    await decideAt(0);
    for (let count = 1; count < 12; count += 1) {
      expect((await decideAt(count)).outcome).toBe('ran');
      expect(await readOutcome(r, LOST, NEVER)).toBeUndefined();
      await end(count);
    }
    asks = [];
    expect((await decideAt(12.5)).outcome).toBe('ran');
    expect(asks).toEqual([LOST]);
    expect(await readOutcome(r, LOST, NEVER)).toMatchObject({ status: { phase: 'failed' } });
    await end(12.5);
    await decideAt(13.5);
    expect(asks).toEqual([LOST]);
  });

  it('F6: and still runs is left alone, and in the way only of the slot after it', async () => {
    await decideAt(0);
    await decideAt(1);
    expect(await decideAt(14, [LOST])).toMatchObject({ outcome: 'ran' });
    expect(await decideAt(15, [LOST, nameAt(14)])).toMatchObject({
      outcome: 'skipped',
      backupName: nameAt(14),
    });
    expect(await readOutcome(r, LOST, NEVER)).toBeUndefined();
  });

  it('B2: and has a record of its own succeeded: nothing is said against it', async () => {
    await decideAt(0);
    await putBenchBackup(r, { at: 10, daysOld: 1, name: LOST });
    expect((await decideAt(24)).outcome).toBe('ran');
    expect(await readOutcome(r, LOST, NEVER)).toBeUndefined();
  });

  it('F2: and ends at this very moment keeps the end that it wrote', async () => {
    await decideAt(0);
    const { store } = r;
    r = {
      ...r,
      store: {
        ...store,
        put: async (key, body, options) => {
          if (key.endsWith(`outcomes/${LOST}.json`)) {
            r = { ...r, store };
            await end(0);
          }
          return store.put(key, body, options);
        },
      },
    };
    expect((await decideAt(24)).outcome).toBe('ran');
    expect(await readOutcome(r, LOST, NEVER)).toMatchObject({ status: { phase: 'completed' } });
  });
});
