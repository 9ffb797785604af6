import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeEach, describe, expect, it, test } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { formatLsn, toLsn } from '../../core/lsn.ts';
import { segmentName } from '../../core/segment.ts';
import { fetchExitCode, fetchWal, type FetchPlan, type FetchWalPorts } from '../../operations/fetch-wal.ts';
import { walKey } from '../../repository/layout.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { faulty, type Fault } from '../../stores/faulty.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { compressBytes, type Codec } from '../../streams/codec.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment, MiB, SYSTEM_ID } from '../support/wal-segment.ts';

const signal = new AbortController().signal;
const name = (timeline: number, number: number) => segmentName(timeline, BigInt(number), MiB);
const at = (segment: number, offset = 0) => formatLsn(toLsn(BigInt(segment) * BigInt(MiB) + BigInt(offset)));

let store: ObjectStore;
let directory: string;

beforeEach(() => {
  store = createMemoryStore();
  directory = makeTempDir('fetch');
});

async function put(
  fileName: string,
  bytes: Uint8Array = makeSegment(fileName),
  codec: Codec = 'gzip',
): Promise<void> {
  await store.put(walKey('pg', fileName, codec), await compressBytes(codec, bytes, 1), { signal });
}

/** Timeline 1, then 2 from the middle of segment 4 on. */
const forked: FetchPlan = {
  segmentSize: MiB,
  systemId: SYSTEM_ID,
  timelinePath: [
    { timeline: 1, beginsAt: '0/0', endsAt: at(4, 1000) },
    { timeline: 2, beginsAt: at(4, 1000) },
  ],
};
const straight: FetchPlan = { ...forked, timelinePath: [{ timeline: 1, beginsAt: '0/0' }] };

function fetch(fileName: string, ports: Partial<FetchWalPorts> & { faults?: readonly Fault[] } = {}) {
  const { faults = [], ...rest } = ports;
  const repository = createRepository(faulty(store, faults), 'pg');
  return fetchWal(
    { repository: async () => repository, retryAfterMs: 1, deadlineMs: 400, ...rest },
    fileName,
    join(directory, 'RECOVERYXLOG'),
    { signal },
  );
}

const fetched = () => readFileSync(join(directory, 'RECOVERYXLOG'));
const leftovers = () => readdirSync(directory);

/** Shows nothing in listings: what it has is there by its name alone. */
const late = (inner: ObjectStore): ObjectStore => ({
  ...inner,
  list: async function* () {},
  folders: async function* () {},
});

describe('what no listing shows yet', () => {
  it('C3, fault 23: is asked for by its name before a recovery hears that it is absent', async () => {
    await put(name(1, 3));
    const repository = async () => createRepository(late(store), 'pg');
    expect(await fetch(name(1, 3), { repository })).toEqual({ outcome: 'fetched' });
  });

  it('C3: a place where nothing at all lies ends no recovery; with a plan, which was made of it, it may', async () => {
    for (const wanted of [name(1, 3), '00000002.history'])
      await expect(fetch(wanted)).rejects.toMatchObject({
        code: 'config-invalid',
        message: expect.stringMatching(/^nothing lies at .*\/pg: is the server name right\?$/),
      });
    expect(await fetch(name(1, 3), { plan: straight })).toEqual({ outcome: 'absent' });
    expect(await fetch(name(1, 3), { mayBeEmpty: true })).toEqual({ outcome: 'absent' });
    expect(await fetch(name(1, 3), { asksAgain: true })).toEqual({ outcome: 'absent' });
  });

  it('C3: is left for the next time on a standby, which asks every few seconds for what is not there', async () => {
    await put(name(1, 3));
    const repository = async () => createRepository(late(store), 'pg');
    expect(await fetch(name(1, 3), { repository, asksAgain: true })).toEqual({ outcome: 'absent' });
    expect(await fetch(name(1, 3), { asksAgain: true })).toEqual({ outcome: 'fetched' });
  });
});

describe('what is there', () => {
  test.for<Codec>(['none', 'gzip', 'lz4', 'zstd'])('C3: is put in place whole, from %s', async (codec) => {
    await put(name(1, 3), makeSegment(name(1, 3)), codec);
    expect(await fetch(name(1, 3), { plan: straight })).toEqual({ outcome: 'fetched' });
    expect(fetched().equals(makeSegment(name(1, 3)))).toBe(true);
    expect(leftovers()).toEqual(['RECOVERYXLOG']);
  });

  it('C3: replaces what was left under the destination', async () => {
    writeFileSync(join(directory, 'RECOVERYXLOG'), 'half of something');
    await put(name(1, 3));
    await fetch(name(1, 3));
    expect(fetched()).toHaveLength(MiB);
  });

  it('a history is fetched as it is', async () => {
    await put('00000002.history', Buffer.from('1\t0/400000\tno recovery target specified\n'));
    expect(await fetch('00000002.history')).toEqual({ outcome: 'fetched' });
    expect(fetched().toString()).toContain('0/400000');
  });

  it('C3: a damaged copy is passed over for a whole one under another suffix', async () => {
    await store.put(walKey('pg', name(1, 3), 'gzip'), Buffer.from('not gzip'), { signal });
    await put(name(1, 3), makeSegment(name(1, 3)), 'zstd');
    expect(await fetch(name(1, 3))).toEqual({ outcome: 'fetched' });
  });

  it('C4: what follows the branch in the parent’s last segment is zeroed, as PostgreSQL does', async () => {
    await put(name(1, 4));
    expect(await fetch(name(1, 4), { plan: forked })).toEqual({ outcome: 'fetched' });
    expect(
      fetched()
        .subarray(0, 1000)
        .equals(Buffer.from(makeSegment(name(1, 4))).subarray(0, 1000)),
    ).toBe(true);
    expect(
      fetched()
        .subarray(1000)
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  it('a partial segment is served only where the plan says so', async () => {
    await put(`${name(1, 4)}.partial`);
    expect(await fetch(name(1, 4), { plan: forked })).toEqual({ outcome: 'absent' });
    const tail = { segment: name(1, 4), file: `${name(1, 4)}.partial` };
    expect(await fetch(name(1, 4), { plan: { ...forked, tail } })).toEqual({ outcome: 'fetched' });
    await put(name(1, 4), makeSegment(name(1, 4)));
    const whole = await fetch(name(1, 4), { plan: { ...straight, tail } });
    expect(whole).toEqual({ outcome: 'fetched' });
    expect(fetched().subarray(40, 64).toString()).toBe(name(1, 4));
  });

  it('C3: a planned partial segment that is gone is an error, not the end', async () => {
    const tail = { segment: name(1, 4), file: `${name(1, 4)}.partial` };
    await expect(fetch(name(1, 4), { plan: { ...forked, tail } })).rejects.toMatchObject({
      code: 'object-missing',
    });
  });
});

describe('what is not there', () => {
  it('C3: is absent when nothing later is there', async () => {
    await put(name(1, 3));
    expect(await fetch(name(1, 4), { plan: straight })).toEqual({ outcome: 'absent' });
    expect(await fetch(name(1, 4))).toEqual({ outcome: 'absent' });
    expect(leftovers()).toEqual([]);
  });

  it('C3: is a hole when a later segment is there', async () => {
    await put(name(1, 6));
    expect(await fetch(name(1, 4), { plan: straight })).toEqual({ outcome: 'hole', later: name(1, 6) });
    expect(await fetch(name(1, 4))).toEqual({ outcome: 'hole', later: name(1, 6) });
  });

  it('C3: is a hole when a later segment is in another folder', async () => {
    const far = segmentName(1, 4096n * 3n, MiB);
    await put(far);
    expect(await fetch(name(1, 4), { plan: straight })).toEqual({ outcome: 'hole', later: far });
  });

  it('C3: is a hole when a later timeline of the path has a later segment', async () => {
    await put(name(2, 6));
    expect(await fetch(name(1, 2), { plan: forked })).toMatchObject({ outcome: 'hole', later: name(2, 6) });
    expect(await fetch(name(2, 5), { plan: forked })).toMatchObject({ outcome: 'hole' });
  });

  it('C3: segments beside the path are no hole', async () => {
    await put(name(1, 6));
    await put(name(3, 9));
    expect(await fetch(name(2, 4), { plan: forked })).toEqual({ outcome: 'absent' });
    expect(await fetch(name(1, 4), { plan: forked })).toEqual({ outcome: 'absent' });
  });

  it('C3: the end that the plan accepted is absent, and only that one', async () => {
    await put(name(1, 7));
    const plan = { ...straight, acceptedEnd: name(1, 4) };
    expect(await fetch(name(1, 4), { plan })).toEqual({ outcome: 'absent' });
    expect(await fetch(name(1, 5), { plan })).toMatchObject({ outcome: 'hole' });
  });

  it('C3: without a plan, a descendant timeline that needs the segment makes it a hole', async () => {
    await put('00000002.history', Buffer.from(`1\t${at(6, 10)}\tno recovery target specified\n`));
    await put(name(2, 6));
    expect(await fetch(name(1, 4))).toMatchObject({ outcome: 'hole', later: name(2, 6) });
    // The descendant branched off within segment 6: whoever asks for it on timeline 1 is at its end.
    expect(await fetch(name(1, 6))).toEqual({ outcome: 'absent' });
  });

  it('a history that nobody wrote is absent', async () => {
    await put(name(1, 3));
    expect(await fetch('00000002.history')).toEqual({ outcome: 'absent' });
    expect(await fetch('00000003.history', { plan: forked })).toEqual({ outcome: 'absent' });
  });

  it('C3: a history that was lost is a hole: taking it for absent would end on an older timeline', async () => {
    await put(name(2, 4));
    expect(await fetch('00000002.history')).toMatchObject({ outcome: 'hole' });
    expect(await fetch('00000002.history', { plan: forked })).toMatchObject({ outcome: 'hole' });
  });
});

describe('doubt is never absence', () => {
  test.for<{ why: string; fault: Fault; code: string }>([
    { why: 'the look-up fails', fault: { on: 'list', does: 'error' }, code: 'deadline-exceeded' },
    {
      why: 'the look-up is denied',
      fault: { on: 'list', does: 'error', code: 'access-denied' },
      code: 'access-denied',
    },
    {
      why: 'the bucket is gone',
      fault: { on: 'list', does: 'error', code: 'bucket-missing' },
      code: 'bucket-missing',
    },
    { why: 'the store stalls', fault: { on: 'list', does: 'stall' }, code: 'deadline-exceeded' },
    {
      why: 'the listing of what is later fails',
      fault: { on: 'folders', does: 'error' },
      code: 'deadline-exceeded',
    },
    {
      why: 'the listing of what is later stalls',
      fault: { on: 'folders', does: 'stall' },
      code: 'deadline-exceeded',
    },
  ])('C3: $why', async ({ fault, code }) => {
    await put(name(1, 3));
    await expect(fetch(name(1, 4), { plan: straight, faults: [fault] })).rejects.toMatchObject({ code });
    expect(leftovers()).toEqual([]);
  });

  test.for<{ why: string; fault: Fault; code: string }>([
    { why: 'the download fails', fault: { on: 'get', does: 'error' }, code: 'deadline-exceeded' },
    {
      why: 'the download is cut',
      fault: { on: 'get', does: 'cut', afterBytes: 100 },
      code: 'deadline-exceeded',
    },
    {
      why: 'the object ends early',
      fault: { on: 'get', does: 'truncate', afterBytes: 100 },
      code: 'object-damaged',
    },
    { why: 'a bit is turned', fault: { on: 'get', does: 'flip', afterBytes: 300 }, code: 'object-damaged' },
    { why: 'the download stalls', fault: { on: 'get', does: 'stall' }, code: 'deadline-exceeded' },
  ])('C3: $why, and nothing is left behind', async ({ fault, code }) => {
    await put(name(1, 3));
    await expect(fetch(name(1, 3), { plan: straight, faults: [fault] })).rejects.toMatchObject({ code });
    expect(leftovers()).toEqual([]);
  });

  test.for<Fault>([
    { on: 'list', nth: 1, does: 'error' },
    { on: 'get', nth: 1, does: 'error' },
    { on: 'get', nth: 1, does: 'cut', afterBytes: 50 },
    { on: 'get', nth: 1, does: 'flip', afterBytes: 300 },
  ])('C3: a passing fault is retried: %j', async (fault) => {
    await put(name(1, 3));
    expect(await fetch(name(1, 3), { faults: [fault] })).toEqual({ outcome: 'fetched' });
  });

  it('C3: a repository that can’t be opened at first is tried again', async () => {
    await put(name(1, 3));
    const { BackupError } = await import('../../core/errors.ts');
    let tries = 0;
    const repository = async () => {
      if (++tries < 3) throw new BackupError('store-unavailable', 'not yet');
      return createRepository(store, 'pg');
    };
    expect(await fetch(name(1, 3), { repository })).toEqual({ outcome: 'fetched' });
  });

  test.for<{ why: string; bytes: () => Uint8Array; code: string }>([
    {
      why: 'of another system',
      bytes: () => makeSegment(name(1, 3), { systemId: '42' }),
      code: 'wal-foreign',
    },
    { why: 'of another position', bytes: () => makeSegment(name(1, 9)), code: 'object-damaged' },
    { why: 'of zeros', bytes: () => new Uint8Array(MiB), code: 'object-damaged' },
    {
      why: 'cut before it was stored',
      bytes: () => makeSegment(name(1, 3)).subarray(0, MiB / 2),
      code: 'object-damaged',
    },
    { why: 'empty', bytes: () => new Uint8Array(0), code: 'object-damaged' },
  ])('C3: a segment $why is refused', async ({ bytes, code }) => {
    await put(name(1, 3), bytes());
    await expect(fetch(name(1, 3), { plan: straight })).rejects.toMatchObject({ code });
    expect(leftovers()).toEqual([]);
  });

  it('names that PostgreSQL never asks for are refused', async () => {
    await expect(fetch('../../etc/passwd')).rejects.toMatchObject({ code: 'format-invalid' });
  });

  it('C3: an abort from outside is passed on, and leaves nothing', async () => {
    await put(name(1, 3));
    const controller = new AbortController();
    const repository = createRepository(faulty(store, [{ on: 'get', does: 'stall' }]), 'pg');
    const running = fetchWal({ repository: async () => repository }, name(1, 3), join(directory, 'x'), {
      signal: controller.signal,
    });
    controller.abort(new Error('stopped'));
    await expect(running).rejects.toThrow('stopped');
    expect(leftovers()).toEqual([]);
  });
});

describe('exit codes', () => {
  test.for([
    ['fetched', false, 0],
    ['absent', false, 1],
    ['hole', false, 200],
    ['failed', false, 200],
    ['hole', true, 100],
    ['failed', true, 100],
  ] as const)('C3: %s, standby: %s → %i', ([outcome, isStandby, code]) => {
    expect(fetchExitCode(outcome, isStandby)).toBe(code);
  });
});

it('C3: over random archives and faults, never absent while a later segment of the path is there', async () => {
  const methods = ['list', 'folders', 'get'] as const;
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 0, max: 9 })), {
        maxLength: 8,
        selector: (pair) => pair.join(),
      }),
      fc.tuple(fc.integer({ min: 1, max: 2 }), fc.integer({ min: 0, max: 9 })),
      fc.option(
        fc.record({
          on: fc.constantFrom(...methods),
          nth: fc.integer({ min: 1, max: 3 }),
          does: fc.constantFrom('error', 'cut'),
        }),
      ),
      async (archived, [timeline, number], fault) => {
        store = createMemoryStore();
        for (const [tl, n] of archived)
          await store.put(walKey('pg', name(tl, n), 'none'), makeSegment(name(tl, n)), { signal });
        const has = (tl: number, n: number) => archived.some(([a, b]) => a === tl && b === n);
        // What PostgreSQL would ask for along the path: timeline 1 before segment 4, 2 from there on.
        const later = Array.from({ length: 9 - number }, (_, i) => number + 1 + i).find((n) =>
          timeline === 2 ? has(2, n) : n < 4 ? has(1, n) : has(2, n),
        );
        let outcome: string;
        try {
          ({ outcome } = await fetch(name(timeline, number), {
            plan: forked,
            faults: fault ? [fault] : [],
            deadlineMs: 15_000,
          }));
        } catch (error) {
          if (!isBackupError(error)) throw error;
          outcome = 'failed';
        }
        if (has(timeline, number)) expect(outcome).toBe('fetched');
        else expect(outcome).toBe(later === undefined ? 'absent' : 'hole');
      },
    ),
    { numRuns: 300 },
  );
});
