import { WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { AuditPorts } from '../../activities/wal-audit.ts';
import type { AuditReport } from '../../core/audit.ts';
import { parseLsn } from '../../core/lsn.ts';
import { segmentAt, segmentName } from '../../core/segment.ts';
import { auditArchive } from '../../operations/audit-archive.ts';
import { repairWal } from '../../operations/repair-wal.ts';
import { writeBackupInfo } from '../../repository/catalogue.ts';
import { walKey } from '../../repository/layout.ts';
import { claimOwner } from '../../repository/owner.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { auditPage } from '../../workflows/audit-page.ts';
import * as walkeep from '../../workflows/interface.ts';
import { makeTempDir } from '../support/temp.ts';
import { SYSTEM_ID } from '../support/wal-bytes.ts';
import { makeWal } from '../support/wal-with-records.ts';
import {
  clusterManifest,
  emptyAudit,
  eventually,
  newWorld,
  startInstance,
  startTemporal,
  type FakeInstance,
  type RunningInstance,
} from './fake-cluster.ts';

const MiB = 1024 * 1024;
const { signal } = new AbortController();
const systemId = SYSTEM_ID.toString();
const name = (number: number) => segmentName(1, BigInt(number), MiB);

let temporal: TestWorkflowEnvironment;
let running: RunningInstance[] = [];
let store: ObjectStore;
let repository: Repository;

beforeAll(async () => {
  temporal = await startTemporal();
}, 60_000);
afterAll(async () => {
  await temporal?.teardown();
});
afterEach(async () => {
  await Promise.all(running.map((instance) => instance.stop()));
  running = [];
});

/** An archive of segments 1 to 9 with a backup in segment 2, as it was an hour ago. */
async function createArchive(): Promise<void> {
  const inner = createMemoryStore();
  store = {
    ...inner,
    head: async (key, options) => {
      const found = await inner.head(key, options);
      const isClock = key.endsWith('/walkeep/clock');
      return found && isClock
        ? { ...found, modifiedAt: new Date(found.modifiedAt.getTime() + 3_600_000) }
        : found;
    },
  };
  repository = createRepository(store, 'pg');
  await claimOwner(repository, { systemId, segmentSize: MiB }, signal);
  for (let number = 1; number <= 9; number++)
    await store.put(keyOf(number), makeWal(name(number)), { signal });
  const backupId = '20261122T222531';
  await store.put(`pg/base/${backupId}/data.tar`, Buffer.from('x'), { signal });
  const [beginLsn, endLsn] = [parseLsn('0/200028'), parseLsn('0/201000')];
  await writeBackupInfo(
    repository,
    {
      backupId,
      status: 'DONE',
      beginTime: new Date('2026-11-22T22:25:31Z'),
      endTime: new Date('2026-11-22T22:25:44Z'),
      beginLsn,
      endLsn,
      beginWal: segmentAt(1, beginLsn, MiB),
      endWal: segmentAt(1, endLsn, MiB),
      timeline: 1,
      systemId,
      version: 150_020,
      segmentSize: MiB,
      tablespaces: [],
      backupLabel: 'x',
      serverName: 'cloud',
      pgdata: '/srv/source',
      unknown: {},
    },
    signal,
  );
}

const keyOf = (number: number) => walKey('pg', name(number), 'none');

/** The real operations, over the archive and a `pg_wal` with these segments. */
function instanceWith(instance: string, segments: readonly number[], story: string[]): Partial<AuditPorts> {
  const pgWalDirectory = join(makeTempDir('wal'), 'pg_wal');
  mkdirSync(join(pgWalDirectory, 'archive_status'), { recursive: true });
  for (const number of segments) writeFileSync(join(pgWalDirectory, name(number)), makeWal(name(number)));
  return {
    audit: ({ read, round, readBefore }, options) => {
      story.push(`${instance}: audit ${read}`);
      return auditArchive(repository, { read, round, readBefore }, options);
    },
    repair: ({ damages }, options) => {
      story.push(
        `${instance}: repair ${damages.map(({ first }) => Number.parseInt(first.slice(16), 16)).join()}`,
      );
      const ports = {
        instance,
        repository: () => Promise.resolve(repository),
        pgWalDirectory,
        codec: 'zstd' as const,
        identity: () => Promise.resolve({ systemId, segmentSize: MiB }),
      };
      return repairWal(ports, damages, { signal: options.signal });
    },
  };
}

async function site(cluster: string, ...fakes: readonly Partial<FakeInstance>[]): Promise<void> {
  const world = newWorld();
  for (const [index, fake] of fakes.entries()) {
    const instance = `${cluster}-${index + 1}`;
    world.manifests.set(`${instance}:default/${cluster}`, {
      manifest: clusterManifest(cluster),
      revision: 1,
    });
    const queues = index === 0 ? (['workflows', 'cluster', 'instance'] as const) : (['instance'] as const);
    running.push(
      await startInstance({ connection: temporal.nativeConnection }, world, {
        cluster,
        instance,
        queues,
        ...fake,
      }),
    );
  }
}

/** The keeper, which knows a primary and a standby. */
async function startKeeper(cluster: string): Promise<WorkflowHandle> {
  const keeper = await temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
    taskQueue: walkeep.WORKFLOW_QUEUE,
    workflowId: walkeep.clusterWorkflowId('default', cluster),
    args: [clusterManifest(cluster)],
  });
  const facts = { host: 'h', version: '0', searchAttributes: true } as const;
  await keeper.signal(walkeep.instanceSignal, { instance: `${cluster}-1`, role: 'primary', ...facts });
  await keeper.signal(walkeep.instanceSignal, { instance: `${cluster}-2`, role: 'standby', ...facts });
  return keeper;
}

async function stopKeeper(cluster: string, keeper: WorkflowHandle): Promise<void> {
  await keeper.terminate();
  await temporal.client.workflow
    .getHandle(walkeep.walArchivingWorkflowId('default', cluster))
    .terminate()
    .catch(() => {});
}

async function start(cluster: string, input: object = {}): Promise<WorkflowHandle> {
  return temporal.client.workflow.start(walkeep.WORKFLOW.walAudit, {
    taskQueue: walkeep.WORKFLOW_QUEUE,
    workflowId: walkeep.auditWorkflowId('default', cluster),
    args: [{ cluster, ...input }],
  });
}

const audit = async (cluster: string, input: object = {}) =>
  (await (await start(cluster, input)).result()) as AuditReport;
const told = ({ damages }: AuditReport) =>
  damages.map(({ kind, first, repair, source }) => [
    kind,
    first,
    repair,
    ...(source === undefined ? [] : [source]),
  ]);

describe('walAudit', () => {
  it('F4: with nothing but the cluster, and no keeper: looks at the archive in few events, and can be found', async () => {
    await createArchive();
    const story: string[] = [];
    await site('alone', { audit: instanceWith('alone-1', [], story) });
    const handle = await start('alone', { namespace: null });
    expect(await handle.result()).toMatchObject({
      segments: 9,
      segmentsRead: 9,
      damages: [],
      needsBackup: false,
    });
    expect(story).toEqual(['alone-1: audit new']);
    const described = await handle.describe();
    expect(described.typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.operation)).toBe('audit');
    expect(described.typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.phase)).toBe('whole');
    expect(described.historyLength).toBeLessThan(40);
  });

  it('A6, A3, fault 26, 25, 27: sends again what is missing or damaged, the primary first, then a standby', async () => {
    await createArchive();
    await store.delete([keyOf(4), keyOf(5)], { signal });
    await store.put(keyOf(6), makeWal(name(6)).fill(1, 20_000, 20_010), { signal });
    await store.put(keyOf(7), new Uint8Array(), { signal });
    const story: string[] = [];
    await site(
      'pair',
      { role: 'primary', audit: instanceWith('pair-1', [5, 6, 9], story) },
      { role: 'standby', audit: instanceWith('pair-2', [4, 7, 9], story) },
    );
    const keeper = await startKeeper('pair');
    const report = await audit('pair', { read: 'all' });
    expect(story).toEqual([
      'pair-1: audit all',
      'pair-1: repair 4,6,7',
      'pair-2: repair 4,7',
      'pair-1: audit none',
    ]);
    expect(told(report)).toEqual([
      ['missing', name(5), 'repaired', 'pair-1'],
      ['damaged', name(6), 'repaired', 'pair-1'],
      ['missing', name(4), 'repaired', 'pair-2'],
      ['damaged', name(7), 'repaired', 'pair-2'],
    ]);
    expect(report).toMatchObject({ needsBackup: false, segments: 9 });
    expect(report.intervals).toMatchObject([{ toLsn: '0/A00000' }]);
    await eventually('the keeper knows', async () => {
      const status = await keeper.query(walkeep.clusterStatusQuery);
      return status.audit?.at === report.at;
    });
    expect(await audit('pair', { read: 'all' })).toMatchObject({ damages: [] });
    await stopKeeper('pair', keeper);
  });

  it('A6, fault 26: what nobody has any more is impossible, the window is split there and a base backup is asked for', async () => {
    await createArchive();
    await store.delete([keyOf(5)], { signal });
    const story: string[] = [];
    await site('gone', { role: 'primary', audit: instanceWith('gone-1', [8, 9], story) });
    const handle = await start('gone');
    const report = (await handle.result()) as AuditReport;
    expect(told(report)).toEqual([['missing', name(5), 'impossible']]);
    expect(report.needsBackup).toBe(true);
    expect(report.intervals).toMatchObject([{ toLsn: '0/500000', lastSegment: name(4) }]);
    const described = await handle.describe();
    expect(described.typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.phase)).toBe('damaged');
  });

  it('A3, fault 28: foreign content is named and not touched', async () => {
    await createArchive();
    const foreign = makeWal(name(5), { systemId: 4711n });
    await store.put(keyOf(5), foreign, { signal });
    await site('foreign', { role: 'primary', audit: instanceWith('foreign-1', [5, 6], []) });
    const report = await audit('foreign');
    expect(told(report)).toEqual([['damaged', name(5), 'not-tried']]);
    expect(report.damages[0]?.detail).toMatch(/foreign.*4711/);
    const pieces: Uint8Array[] = [];
    for await (const piece of (await store.get(keyOf(5), { signal })) ?? []) pieces.push(piece);
    expect(Buffer.compare(Buffer.concat(pieces), foreign)).toBe(0);
  });

  it('an instance that does not answer is named; its WAL is not called impossible', async () => {
    await createArchive();
    await store.delete([keyOf(5)], { signal });
    const failing = async () => Promise.reject(new Error('this host is unwell'));
    await site(
      'half',
      { role: 'primary', audit: instanceWith('half-1', [9], []) },
      { role: 'standby', audit: { repair: failing, audit: async () => emptyAudit() }, queues: [] },
    );
    const keeper = await startKeeper('half');
    const report = await audit('half');
    expect(told(report)).toEqual([['missing', name(5), 'not-tried']]);
    expect(report.damages[0]?.detail).toMatch(/half-2 could not be asked: no worker takes work/);
    await stopKeeper('half', keeper);
  }, 120_000);

  it('repair: false only looks', async () => {
    await createArchive();
    await store.delete([keyOf(5)], { signal });
    const story: string[] = [];
    await site('looks', { role: 'primary', audit: instanceWith('looks-1', [5, 6], story) });
    expect(told(await audit('looks', { repair: false, read: 'none' }))).toEqual([
      ['missing', name(5), undefined],
    ]);
    expect(story).toEqual(['looks-1: audit none']);
  });

  it('F2: a repair that is tried again after it was done has one effect', async () => {
    await createArchive();
    await store.delete([keyOf(5)], { signal });
    const ports = instanceWith('twice-1', [5, 6], []);
    let tries = 0;
    await site('twice', {
      role: 'primary',
      audit: {
        ...ports,
        repair: async (input, options) => {
          const done = (await ports.repair?.(input, options)) ?? [];
          tries += 1;
          if (tries === 1) throw new Error('the answer was lost');
          return done;
        },
      },
    });
    expect(told(await audit('twice'))).toEqual([['missing', name(5), 'repaired', 'twice-1']]);
    expect(tries).toBe(2);
  });

  it.for([
    { input: { read: 'some' }, says: 'field "read"' },
    { input: { repair: 'yes' }, says: 'field "repair"' },
    { input: { raed: 'all' }, says: 'raed' },
  ])('refuses $input and names the field', async ({ input, says }) => {
    await site('strict', {});
    const error: unknown = await audit('strict', input).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(WorkflowFailedError);
    expect((error as WorkflowFailedError).cause).toMatchObject({
      type: 'input-invalid',
      nonRetryable: true,
      message: expect.stringContaining(says),
    });
  });
});

describe('the page of an audit', () => {
  it('shows what can be restored to, each hole, and the verdict', () => {
    const report = emptyAudit({
      intervals: [
        {
          timeline: 1,
          backupId: '20261122T222531',
          fromLsn: '0/201000',
          toLsn: '0/500000',
          fromTime: '2026-11-22T22:25:44.000Z',
          lastSegment: name(4),
        },
      ],
      damages: [
        { kind: 'missing', timeline: 1, first: name(5), last: name(6), count: 2, repair: 'impossible' },
      ],
      needsBackup: true,
      warnings: ['one | thing'],
    });
    const page = auditPage(
      { cluster: 'pg', namespace: 'default', read: 'new' },
      { phase: 'damaged', report },
    );
    expect(page).toContain('### WAL audit of pg: damaged');
    expect(page).toContain('| 2026-11-22T22:25:44.000Z |  | 1 | 20261122T222531 | 0/201000 … 0/500000 |');
    expect(page).toContain(`| ${name(5)} … ${name(6)} | 2 | 1 | missing | impossible |`);
    expect(page).toContain('a base backup is needed');
    expect(page).toContain('- one | thing');
  });
});
