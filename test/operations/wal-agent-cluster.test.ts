import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { pushWal } from '../../operations/archive-wal.ts';
import {
  agentSocketPath,
  createClusterArchiveSource,
  createWalFetcher,
} from '../../operations/cluster-archive.ts';
import { formatRecoveryFile, RECOVERY_FILE } from '../../operations/recovery-file.ts';
import { createSecretResolver } from '../../operations/secret-resolver.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { applyTestCluster } from '../support/applied-cluster.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';

const { signal } = new AbortController();
const nth = (number: number) => `00000001000000000000000${number}`;

let stateDirectory: string;
let pgdata: string;
let ports: Parameters<typeof createClusterArchiveSource>[0];

beforeEach(() => {
  stateDirectory = makeTempDir('state');
  pgdata = makeTempDir('data');
  mkdirSync(join(pgdata, 'pg_wal'));
  const resolver = createSecretResolver({ stateDirectory, environment: {} });
  ports = { state: openStateDirectory(stateDirectory), resolver, namespace: 'default', cluster: 'pg' };
});

const apply = (directory: string, walCompression = 'gzip', maxParallel = 3) =>
  applyTestCluster(stateDirectory, {
    name: 'pg',
    destinationPath: `file://${directory}`,
    walCompression,
    maxParallel,
    objectStore: { tags: { team: 'a' }, historyTags: { team: 'b' } },
  });

/** Archives these segments into a directory repository. */
async function archive(directory: string, numbers: readonly number[], seed = 1): Promise<void> {
  await apply(directory);
  const { repository, storage } = await createClusterArchiveSource(ports).current();
  const pgWalDirectory = makeTempDir('wal');
  const identity = () => Promise.resolve({ systemId: SYSTEM_ID.toString(), segmentSize: 1 << 20 });
  for (const number of numbers) {
    writeFileSync(join(pgWalDirectory, nth(number)), makeSegment(nth(number), { seed }));
    const own = { ...storage, repository: () => Promise.resolve(repository), pgWalDirectory, identity };
    await pushWal(own, nth(number), { signal });
  }
}

describe('the archive of a cluster that is applied on this host', () => {
  it('is unknown before, and what the manifest says from then on', async () => {
    const source = createClusterArchiveSource(ports);
    await expect(source.current()).rejects.toMatchObject({ code: 'cluster-unknown' });
    expect(source.opened()).toBeUndefined();
    const first = makeTempDir('archive');
    await apply(first);
    const target = await source.current();
    expect(target).toMatchObject({
      revision: '1',
      maxParallel: 3,
      storage: { codec: 'gzip', tags: { team: 'a' }, historyTags: { team: 'b' } },
      repository: { url: `file://${first}/pg` },
    });
    expect(await source.current()).toBe(target);
    expect(source.opened()).toBe(target);
  });

  it('is opened anew when another manifest is applied, and when it is told to forget', async () => {
    const source = createClusterArchiveSource(ports);
    await apply(makeTempDir('archive'));
    const target = await source.current();
    await apply(makeTempDir('archive'), 'zstd', 1);
    const next = await source.current();
    expect(next).toMatchObject({ revision: '2', maxParallel: 1, storage: { codec: 'zstd' } });
    expect(next).not.toBe(target);
    source.forget();
    expect(await source.current()).not.toBe(next);
    await source.close();
  });

  it('A1: is opened anew for a manifest whose revision begins anew, as when all but the worker was lost', async () => {
    const source = createClusterArchiveSource(ports);
    await apply(makeTempDir('archive'));
    expect(await source.current()).toMatchObject({ revision: '1' });
    await ports.state.clusters.remove('default', 'pg');
    const elsewhere = makeTempDir('archive');
    await apply(elsewhere);
    expect(await source.current()).toMatchObject({
      revision: '1',
      repository: { url: `file://${elsewhere}/pg` },
    });
    await source.close();
  });

  it('has a socket that depends on the data directory alone, and is short', () => {
    const path = agentSocketPath('/var/lib/walkeep/run', '/srv/pg');
    expect(path).toMatch(/^\/var\/lib\/walkeep\/run\/wal-[0-9a-f]{12}\.sock$/);
    expect(agentSocketPath('/var/lib/walkeep/run', '/srv/pg2')).not.toBe(path);
    const inside = join(pgdata, 'pg_wal', '..');
    expect(agentSocketPath('/run', inside)).toBe(agentSocketPath('/run', pgdata));
    // the same before and after a restore has made it, through a link too
    const link = join(makeTempDir('link'), 'l');
    symlinkSync(pgdata, link);
    const before = agentSocketPath('/run', join(link, 'later'));
    mkdirSync(join(pgdata, 'later'));
    expect(agentSocketPath('/run', join(link, 'later'))).toBe(before);
    expect(agentSocketPath('/run', join(pgdata, 'later'))).toBe(before);
  });
});

describe('what an agent fetches', () => {
  const destination = () => join(pgdata, 'pg_wal', 'RECOVERYXLOG');
  const fetcher = () => createWalFetcher({ ...ports, pgdata, source: createClusterArchiveSource(ports) });

  it('C3: for a standby, is in the archive of its own cluster, whatever a restore left in the directory', async () => {
    await archive(makeTempDir('archive'), [1, 2]);
    writeFileSync(join(pgdata, RECOVERY_FILE), 'of an earlier life');
    writeFileSync(join(pgdata, 'standby.signal'), '');
    const fetch = fetcher();
    expect(await fetch(nth(2), destination(), { signal })).toEqual({ outcome: 'fetched' });
    expect(await fetch(nth(3), destination(), { signal })).toEqual({ outcome: 'absent' });
  });

  it('C3: for a recovery, is what its plan says, from where the restore was from', async () => {
    const origin = makeTempDir('origin');
    await archive(origin, [1, 2, 4], 7);
    await archive(makeTempDir('archive'), [1, 2, 3], 1);
    writeFileSync(join(pgdata, 'recovery.signal'), '');
    const file = formatRecoveryFile({
      version: 1,
      createdAt: new Date().toISOString(),
      backupId: '20261122T222531',
      repository: {
        namespace: 'default',
        serverName: 'pg',
        barmanObjectStore: { destinationPath: `file://${origin}` },
      },
      plan: { segmentSize: 1 << 20, timelinePath: [{ timeline: 1, beginsAt: '0/0' }] },
      spool: 'walkeep_spool',
    });
    writeFileSync(join(pgdata, RECOVERY_FILE), file);
    const fetch = fetcher();
    expect(await fetch(nth(2), destination(), { signal })).toEqual({ outcome: 'fetched' });
    expect(Buffer.compare(readFileSync(destination()), makeSegment(nth(2), { seed: 7 }))).toBe(0);
    rmSync(destination());
    expect(await fetch(nth(3), destination(), { signal })).toEqual({ outcome: 'hole', later: nth(4) });
    expect(existsSync(destination())).toBe(false);
  });

  it('C3: in a recovery whose file was moved away, nothing is said, least of all about the own archive', async () => {
    await archive(makeTempDir('archive'), [1]);
    writeFileSync(join(pgdata, 'recovery.signal'), '');
    await expect(fetcher()(nth(9), destination(), { signal })).rejects.toMatchObject({ code: 'not-yet' });
  });

  it('C3: with a recovery file that is damaged, nothing is said', async () => {
    await archive(makeTempDir('archive'), [1]);
    writeFileSync(join(pgdata, 'recovery.signal'), '');
    writeFileSync(join(pgdata, RECOVERY_FILE), '{');
    await expect(fetcher()(nth(9), destination(), { signal })).rejects.toMatchObject({
      code: 'config-invalid',
    });
  });
});
