import { describe, expect, it } from 'vitest';
import type { Verification } from '../../core/verification.ts';
import { ownKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import {
  listVerifications,
  newestVerified,
  provenAt,
  readVerification,
  writeVerification,
} from '../../repository/verifications.ts';
import { createMemoryStore } from '../../stores/memory.ts';

const NEVER = new AbortController().signal;

function evidence(id: string, more: Partial<Verification> = {}): Verification {
  const time = `${id.slice(0, 4)}-${id.slice(4, 6)}-${id.slice(6, 8)}T${id.slice(9, 11)}:${id.slice(11, 13)}:${id.slice(13, 15)}Z`;
  return {
    version: 1,
    id,
    namespace: 'default',
    cluster: 'pg',
    result: 'verified',
    startedAt: time,
    endedAt: time,
    host: 'h',
    instance: 'pg-1',
    backupId: '20261101T000000',
    target: { kind: 'end' },
    walkeepVersion: '0.2.0',
    checks: [{ name: 'hashes', result: 'failed', object: 'data.tar', detail: 'a hash', seconds: 1.5 }],
    warnings: ['one'],
    ...more,
  };
}

function open(): Repository {
  return createRepository(createMemoryStore(), 'pg');
}

describe('evidence of verifications', () => {
  it('C6: it is kept as it is, and never changes', async () => {
    const r = open();
    const one = evidence('20261101T040000-ab12cd', { rtoSeconds: 12.5, reachedLsn: '0/3000000' });
    await writeVerification(r, one, NEVER);
    await writeVerification(r, one, NEVER);
    expect(await readVerification(r, one.id, NEVER)).toEqual(one);
    const other = { ...one, result: 'damaged' as const };
    await expect(writeVerification(r, other, NEVER)).rejects.toMatchObject({ code: 'already-exists' });
    expect(await readVerification(r, one.id, NEVER)).toEqual(one);
  });

  it('lists the newest first; what is no evidence is passed over, what is damaged is told or thrown', async () => {
    const r = open();
    const ids = ['20261101T040000-a', '20261103T040000-b', '20261102T040000', '20261102T050000-c'];
    for (const id of ids) await writeVerification(r, evidence(id), NEVER);
    await r.store.put(ownKey('pg', 'verifications', 'notes.txt'), Buffer.from('x'), { signal: NEVER });
    const listed = async (options = {}) => (await listVerifications(r, NEVER, options)).map(({ id }) => id);
    expect(await listed()).toEqual([ids[1], ids[3], ids[2], ids[0]]);
    expect(await listed({ limit: 2 })).toEqual([ids[1], ids[3]]);
    expect(await listed({ since: new Date('2026-11-02T04:30:00Z') })).toEqual([ids[1], ids[3]]);

    const key = ownKey('pg', 'verifications', '20261104T040000.json');
    await r.store.put(key, Buffer.from('{"version":1}'), { signal: NEVER });
    await expect(listed()).rejects.toMatchObject({ code: 'format-invalid' });
    const told: string[] = [];
    expect(await listed({ onProblem: (id: string) => told.push(id) })).toHaveLength(4);
    expect(told).toEqual(['20261104T040000']);
  });

  it.for([
    { why: 'a name that leaves the folder', id: '../../base/x' },
    { why: 'a name that is no time', id: 'newest' },
  ])('S2: refuses $why', async ({ id }) => {
    await expect(writeVerification(open(), evidence('20261101T040000', { id }), NEVER)).rejects.toMatchObject(
      {
        code: 'format-invalid',
      },
    );
  });

  it('a backup is proved by what was verified, and by nothing else', () => {
    const found = [
      evidence('20261103T040000', { result: 'damaged' }),
      evidence('20261102T040000'),
      evidence('20261101T040000'),
      evidence('20261104T040000', { result: 'not-tried', backupId: '20261031T000000' }),
      evidence('20261029T040000', { backupId: '20261028T000000' }),
    ];
    expect(provenAt(found)).toEqual(
      new Map([
        ['20261101T000000', new Date('2026-11-02T04:00:00Z')],
        ['20261028T000000', new Date('2026-10-29T04:00:00Z')],
      ]),
    );
    expect(newestVerified(found)?.id).toBe('20261102T040000');
    expect(newestVerified([])).toBeUndefined();
  });
});
