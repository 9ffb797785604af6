/** Fault 25 in real stores: a byte of a stored segment that nothing but the recorded hash speaks against. */
import { existsSync, mkdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { segmentName } from '../../core/segment.ts';
import { pushWal, type ArchivePorts } from '../../operations/archive-wal.ts';
import { auditArchive } from '../../operations/audit-archive.ts';
import { fetchWal } from '../../operations/fetch-wal.ts';
import { inspectWal } from '../../operations/inspect-wal.ts';
import { repairWal } from '../../operations/repair-wal.ts';
import { walKey } from '../../repository/layout.ts';
import { createRepository } from '../../repository/repository.ts';
import { findWal, recordedDigest } from '../../repository/wal.ts';
import { openStore } from '../../stores/open-store.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { sha256 } from '../../streams/digest.ts';
import { startAzurite } from '../support/azurite.ts';
import { startFakeGcs } from '../support/fake-gcs.ts';
import { startS3 } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith } from '../support/tools.ts';
import { SYSTEM_ID } from '../support/wal-bytes.ts';
import { makeWal } from '../support/wal-with-records.ts';

const MiB = 1024 * 1024;
const { signal } = new AbortController();
const owner = { systemId: SYSTEM_ID.toString(), segmentSize: MiB };
const name = (number: number) => segmentName(1, BigInt(number), MiB);
const SEGMENT = name(7);
const KEY = walKey('pg', SEGMENT, 'none');
/** Behind the switch, where no record is. */
const UNCHECKED = 1_040_000;

interface StoreAndDamage {
  readonly store: ObjectStore;
  /** Changes the byte in the store, and nothing else that it keeps of the object. */
  readonly flip: () => Promise<void>;
}

/** Where the server's own files are not ours to change: the bytes anew, with the metadata as it came back. */
async function putFlipped(store: ObjectStore): Promise<void> {
  const body = await store.get(KEY, { signal });
  const bytes = await collectBytes(body!, 2 * MiB);
  bytes[UNCHECKED] = (bytes[UNCHECKED] ?? 0) ^ 1;
  await store.put(KEY, bytes, { signal, metadata: await body!.metadata() });
}

/** As a disk does it, which leaves the time of the file as it is. */
function flipFile(path: string): void {
  const { atime, mtime } = statSync(path);
  const bytes = readFileSync(path);
  bytes[UNCHECKED] = (bytes[UNCHECKED] ?? 0) ^ 1;
  writeFileSync(path, bytes);
  utimesSync(path, atime, mtime);
}

function describeDamage(open: () => Promise<StoreAndDamage>): void {
  async function archived() {
    const { store, flip } = await open();
    const repository = createRepository(store, 'pg');
    const pgWalDirectory = join(makeTempDir('damage'), 'pg_wal');
    mkdirSync(join(pgWalDirectory, 'archive_status'), { recursive: true });
    const alerts: string[] = [];
    const ports: ArchivePorts = {
      repository: () => Promise.resolve(repository),
      pgWalDirectory,
      codec: 'none',
      identity: () => Promise.resolve(owner),
      alert: (message) => void alerts.push(message),
    };
    for (const number of [6, 7, 8]) {
      writeFileSync(join(pgWalDirectory, name(number)), makeWal(name(number)));
      await pushWal(ports, name(number), { signal });
    }
    await flip();
    const target = join(makeTempDir('damage-fetch'), 'RECOVERYXLOG');
    const fetch = () =>
      fetchWal({ repository: async () => repository, retryAfterMs: 1 }, SEGMENT, target, { signal });
    return { repository, ports, alerts, fetch, target };
  }

  it('C3, fault 25: a flipped byte is not handed to PostgreSQL, and a push of the file heals it', async () => {
    const { repository, ports, alerts, fetch, target } = await archived();
    const [object] = await findWal(repository, SEGMENT, signal);
    expect(await recordedDigest(repository, object!, signal)).toEqual({
      sha256: sha256(makeWal(SEGMENT)),
      sizeBytes: MiB,
    });
    await expect(fetch()).rejects.toMatchObject({ code: 'object-damaged' });
    expect(existsSync(target)).toBe(false);
    expect(await pushWal(ports, SEGMENT, { signal })).toMatchObject({ outcome: 'repaired' });
    expect(alerts).toEqual([expect.stringContaining(KEY)]);
    expect(await fetch()).toEqual({ outcome: 'fetched' });
    expect(readFileSync(target).equals(makeWal(SEGMENT))).toBe(true);
    await repository.close();
  });

  it('C6, fault 25: a flipped byte is found by an audit, and sent again from pg_wal', async () => {
    const { repository, ports, alerts, fetch } = await archived();
    const report = await auditArchive(repository, { read: 'all' }, { signal, settleMs: 0 });
    expect(report.warnings).toContainEqual(expect.stringContaining(`${SEGMENT} is damaged`));
    const damages = [{ kind: 'damaged', timeline: 1, first: SEGMENT, last: SEGMENT, count: 1 }] as const;
    expect(await repairWal({ ...ports, instance: 'pg-1' }, damages, { signal })).toMatchObject([
      { outcome: 'repaired' },
    ]);
    expect(alerts).toEqual([expect.stringContaining(KEY)]);
    const [object] = await findWal(repository, SEGMENT, signal);
    const options = { owner, isFollowed: true, signal };
    expect(await inspectWal(repository, object!, options)).toEqual({
      sha256: sha256(makeWal(SEGMENT)),
      recorded: { sha256: sha256(makeWal(SEGMENT)), sizeBytes: MiB },
    });
    expect(await fetch()).toEqual({ outcome: 'fetched' });
    await repository.close();
  });
}

describeWith('versitygw', 'a damaged segment on S3', () => {
  describeDamage(async () => {
    const s3 = await startS3();
    const store = openStore({
      kind: 's3',
      bucket: s3.bucket,
      prefix: '',
      endpointUrl: s3.endpointUrl,
      credentials: {
        accessKeyId: new Secret(s3.accessKeyId),
        secretAccessKey: new Secret(s3.secretAccessKey),
      },
    });
    return { store, flip: async () => flipFile(join(s3.directory, s3.bucket, KEY)) };
  });
});

describeWith('azurite', 'a damaged segment on Azure', () => {
  describeDamage(async () => {
    const { serviceUrl, container, account, accountKey } = await startAzurite();
    const store = openStore({
      kind: 'azure',
      serviceUrl,
      container,
      prefix: '',
      credentials: { way: 'account-key', account, key: new Secret(accountKey) },
    });
    return { store, flip: () => putFlipped(store) };
  });
});

describeWith('fake-gcs-server', 'a damaged segment on Google Cloud Storage', () => {
  describeDamage(async () => {
    const { endpointUrl, bucket } = await startFakeGcs();
    const store = openStore({ kind: 'gs', bucket, prefix: '', endpointUrl });
    return { store, flip: () => putFlipped(store) };
  });
});

describe('a damaged segment in a directory', () => {
  describeDamage(async () => {
    const directory = makeTempDir('damage');
    const store = openStore({ kind: 'file', directory });
    return { store, flip: async () => flipFile(join(directory, KEY)) };
  });
});
