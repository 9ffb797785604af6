import { describe, expect, it } from 'vitest';
import { listOutcomes, readOutcome, writeOutcome, type Outcome } from '../../repository/outcome.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';

const signal = new AbortController().signal;

const outcome: Outcome = {
  version: 1,
  backupName: 'nightly-1',
  cluster: 'c',
  namespace: 'default',
  status: { phase: 'completed' },
  recordedAt: '2026-11-24T02:00:00.000Z',
};
const metadata = {
  labels: { 'cnpg.io/scheduled-backup': 'nightly' },
  annotations: { team: 'payments' },
  ownerReferences: [
    {
      apiVersion: 'postgresql.cnpg.io/v1',
      kind: 'ScheduledBackup',
      name: 'nightly',
      uid: 'u1',
      controller: true,
    },
    { apiVersion: 'postgresql.cnpg.io/v1', kind: 'Cluster', name: 'c', controller: false },
  ],
};

describe('an outcome', () => {
  it('E1: is read as it was written, with what the Backup object carried and without', async () => {
    const repository = createRepository(createMemoryStore(), 'srv');
    const other = { ...outcome, backupName: 'nightly-2', metadata };
    for (const one of [outcome, other]) await writeOutcome(repository, one, { mode: 'create', signal });
    expect(await readOutcome(repository, 'nightly-1', signal)).toEqual(outcome);
    expect(await readOutcome(repository, 'nightly-2', signal)).toEqual(other);
    expect(await listOutcomes(repository, signal)).toEqual([outcome, other]);
  });

  it('metadata that is none is refused when it is written', async () => {
    const repository = createRepository(createMemoryStore(), 'srv');
    const wrong = { ...outcome, metadata: { labels: { a: 7 } } } as unknown as Outcome;
    await expect(writeOutcome(repository, wrong, { mode: 'create', signal })).rejects.toThrow(/labels/);
  });
});
