import { describe, expect, it } from 'vitest';
import { createMetrics } from '../../operations/metrics.ts';
import { readProtectionAges, type ProtectionAges } from '../../operations/protection-ages.ts';
import { formatBackupInfo } from '../../repository/backup-info.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { writeVerification } from '../../repository/verifications.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { done } from '../repository/records/done.ts';

const { signal } = new AbortController();

function put(r: Repository, id: string, text: string): Promise<unknown> {
  return r.store.put(`pg/base/${id}/backup.info`, Buffer.from(text), { signal });
}

function verification(id: string, result: 'verified' | 'damaged', endedAt: string) {
  return {
    version: 1 as const,
    id,
    namespace: 'default',
    cluster: 'main',
    result,
    startedAt: endedAt,
    endedAt,
    host: 'h',
    instance: 'main-1',
    backupId: '20261122T222531',
    target: { kind: 'end' },
    walkeepVersion: '0',
    checks: [],
    warnings: [],
  };
}

describe('how old what protects a cluster is', () => {
  it('F6: the newest backup that counts and the newest proof, whoever made them', async () => {
    const r = createRepository(createMemoryStore(), 'pg');
    const none = await readProtectionAges(r, { signal, now: 7 });
    expect(none).toEqual({ readAt: 7 });
    await put(r, '20261122T222531', formatBackupInfo(done));
    // Attempts without a record, and records that can't be read, are no backups.
    await put(r, '20261124T000000', 'garbage');
    await r.store.put('pg/base/20261125T000000/data.tar', Buffer.from('x'), { signal });
    await writeVerification(r, verification('20261123T000000', 'verified', '2026-11-23T00:10:00Z'), signal);
    await writeVerification(r, verification('20261124T000000', 'damaged', '2026-11-24T00:10:00Z'), signal);
    const ages = await readProtectionAges(r, { signal, now: 8 });
    expect(ages).toEqual({
      readAt: 8,
      newestBackupAt: done.endTime?.getTime(),
      newestProvenAt: Date.parse('2026-11-23T00:10:00Z'),
    });
  });

  it('F6: the metrics show them without Temporal, and nothing where nothing is known', async () => {
    let ages: ProtectionAges | undefined;
    const registry = createMetrics({
      version: '0',
      labels: {},
      health: () => ({ healthy: true, temporalConnected: false }),
      database: {
        archive: async () => undefined,
        backups: () => ({ running: 0, doneBytes: 0, totalBytes: 0, completed: 0, failed: 0 }),
        protection: () => ages,
      },
    });
    expect(await registry.metrics()).not.toMatch(/^walkeep_newest_backup_timestamp_seconds /m);
    ages = { readAt: 9_000, newestBackupAt: 5_000 };
    const text = await registry.metrics();
    expect(text).toMatch(/^walkeep_newest_backup_timestamp_seconds 5$/m);
    expect(text).toMatch(/^walkeep_protection_read_timestamp_seconds 9$/m);
    expect(text).not.toMatch(/^walkeep_newest_proof_timestamp_seconds /m);
  });
});
