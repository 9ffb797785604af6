import { describe, expect, it, test } from 'vitest';
import { formatBackupInfo } from '../../repository/backup-info.ts';
import {
  inspectBackup,
  listBackups,
  listParts,
  readBackup,
  writeBackupInfo,
} from '../../repository/catalogue.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore, StoredObject } from '../../stores/object-store.ts';
import { done } from './records/done.ts';

const { signal } = new AbortController();
const open = () => createRepository(createMemoryStore(), 'pg');

const store = (r: Repository, keys: Record<string, string | Uint8Array>) =>
  Promise.all(
    Object.entries(keys).map(([key, body]) => r.store.put(key, Buffer.from(body as string), { signal })),
  );

const record = formatBackupInfo(done);

describe('the catalogue', () => {
  it('lists backups by ascending id; what it can not read is an entry with a problem', async () => {
    const r = open();
    await store(r, {
      'pg/base/20261123T000000/backup.info': record,
      'pg/base/20261122T222531/backup.info': record,
      'pg/base/20261121T000000/backup.info': 'garbage',
      'pg/base/20261120T000000/backup.info': Buffer.from([0xff, 0xfe, 0x00]),
      'pg/base/20261119T000000/backup.info': ' '.repeat(1024 * 1024 + 1),
      'pg/base/20261118T000000/data.tar.gz': 'an attempt without a record',
      'pg/base/by-hand/backup.info': record,
      'pg/base/20261117T000000': 'a file where a folder belongs',
      'pg/wals/0000000100000000/000000010000000000000001': 'x',
    });
    const entries = await listBackups(r, signal);
    expect(entries.map(({ backupId, info, problem }) => [backupId, info?.status ?? problem])).toEqual([
      ['20261119T000000', expect.stringContaining('larger than 1048576')],
      ['20261120T000000', expect.stringContaining('not UTF-8')],
      ['20261121T000000', expect.stringContaining('line 1 is not key=value')],
      ['20261122T222531', 'DONE'],
      ['20261123T000000', 'DONE'],
      ['by-hand', expect.stringContaining('not the id of a backup')],
    ]);
  });

  it('D3: it is complete or it fails', async () => {
    const r = open();
    await store(r, { 'pg/base/20261122T222531/backup.info': record });
    const broken = (change: Partial<ObjectStore>) => ({ ...r, store: { ...r.store, ...change } });
    await expect(listBackups(broken({ folders: () => failing() }), signal)).rejects.toThrow('no answer');
    await expect(listBackups(broken({ list: () => failing() }), signal)).rejects.toThrow('no answer');
    await expect(
      listBackups(broken({ get: () => Promise.reject(new Error('no answer')) }), signal),
    ).rejects.toThrow('no answer');
  });

  it('E5: keeps that stock tools set are seen, whatever they hold', async () => {
    const r = open();
    const contents = {
      '20261122T000001': 'full',
      '20261122T000002': 'standalone',
      '20261122T000003': 'standalone\n',
      '20261122T000004': '',
    };
    for (const [id, keep] of Object.entries(contents)) {
      await store(r, { [`pg/base/${id}/backup.info`]: record, [`pg/base/${id}/annotations/keep`]: keep });
    }
    await store(r, {
      'pg/base/20261122T000005/backup.info': record,
      'pg/base/20261122T000005/annotations/other': 'full',
    });
    const keeps = (await listBackups(r, signal)).map(({ keep }) => keep);
    expect(keeps).toEqual(['full', 'standalone', 'full', 'full', undefined]);
  });

  it('H8: keeps under the key with one slash too many are seen, and the stronger of two counts', async () => {
    const plain = open();
    const r = { ...plain, store: withDoubleSlashes(plain.store) };
    await store(r, {
      'pg/base/20261122T000001/backup.info': record,
      '/pg/base/20261122T000001/annotations/keep': 'standalone',
      'pg/base/20261122T000002/backup.info': record,
      'pg/base/20261122T000002/annotations/keep': 'standalone',
      '/pg/base/20261122T000002/annotations/keep': 'full',
      'pg/base/20261122T000003/backup.info': record,
      'pg/base/20261122T000003/annotations/keep': 'full',
      '/pg/base/20261122T000003/annotations/keep': 'standalone',
    });
    expect((await listBackups(r, signal)).map(({ keep }) => keep)).toEqual(['standalone', 'full', 'full']);
  });

  it('gives nothing for a backup that is not there', async () => {
    expect(await readBackup(open(), '20261122T222531', signal)).toBeUndefined();
    expect(await listBackups(open(), signal)).toEqual([]);
  });
});

describe('writing a record', () => {
  it('B2: it is written once; the same again succeeds, another is refused', async () => {
    const r = open();
    await writeBackupInfo(r, done, signal);
    await writeBackupInfo(r, done, signal);
    const other = { ...done, version: 170011 };
    await expect(writeBackupInfo(r, other, signal)).rejects.toMatchObject({ code: 'already-exists' });
    const { timesAsWritten: _, ...read } = (await readBackup(r, done.backupId, signal))!;
    expect(read).toEqual(done);
  });
});

describe('the parts of a backup', () => {
  const at = (...names: string[]) =>
    Object.fromEntries(names.map((name) => [`pg/base/20261122T222531/${name}`, 'x']));
  const parts = async (...names: string[]) => {
    const r = open();
    await store(r, { ...at(...names), 'pg/base/20261122T222532/data.tar': 'of another backup' });
    return listParts(r, '20261122T222531', signal);
  };

  it('E5: come in the order of a restore, whatever their codecs', async () => {
    const found = await parts(
      'backup.info',
      'annotations/keep',
      '16401.tar',
      '16384.tar.gz',
      '16384_0001.tar.lz4',
      'data_0001.tar.snappy',
      'data.tar.bz2',
      'data_0002.tar',
      '9999.tar.zst',
    );
    expect(found.map(({ area, index, codec }) => [area, index, codec])).toEqual([
      ['data', 0, 'bzip2'],
      ['data', 1, 'snappy'],
      ['data', 2, 'none'],
      ['9999', 0, 'zstd'],
      ['16384', 0, 'gzip'],
      ['16384', 1, 'lz4'],
      ['16401', 0, 'none'],
    ]);
  });

  test.for([
    ['one part twice', ['data.tar', 'data.tar.gz'], /"data.tar" and "data.tar.gz" are the same part/],
    ['one part three times', ['data.tar', 'data.tar.gz', 'data.tar.lz4'], /same part; .* same part/],
    [
      'a part missing in the middle',
      ['data.tar', 'data_0002.tar'],
      /a part before "data_0002.tar" is missing/,
    ],
    ['a first part missing', ['data.tar', '16384_0001.tar'], /a part before "16384_0001.tar" is missing/],
    ['a tar of an unknown codec', ['data.tar.br'], /"data.tar.br" is named like a tar/],
    ['a tar of an odd number', ['data.tar', 'data_x.tar.gz'], /"data_x.tar.gz" is named like a tar/],
  ] as const)('D: %s is named', async ([, names, message]) => {
    await expect(parts(...names)).rejects.toMatchObject({
      code: 'object-damaged',
      message: expect.stringMatching(message),
    });
  });

  it('what is foreign is reported and harmless', async () => {
    const r = open();
    await store(
      r,
      at('backup.info', 'data.tar', 'data_x.json', 'backup_label', 'sub/data.tar', 'annotations/keep'),
    );
    expect(await inspectBackup(r, '20261122T222531', signal)).toMatchObject({
      parts: [{ area: 'data' }],
      foreign: ['backup_label', 'data_x.json', 'sub/data.tar'].map(
        (name) => `pg/base/20261122T222531/${name}`,
      ),
      problems: [],
    });
  });
});

function failing(): AsyncIterable<never> {
  return { [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(new Error('no answer')) }) };
}

/** Memory refuses keys that begin with a slash, as a directory must; an S3 bucket has them. */
function withDoubleSlashes(plain: ObjectStore): ObjectStore {
  const inner = (key: string) => (key.startsWith('/') ? `slash${key}` : key);
  const outer = (object: StoredObject) => ({ ...object, key: object.key.replace(/^slash\//, '/') });
  return {
    ...plain,
    put: (key, body, options) => plain.put(inner(key), body, options),
    get: (key, options) => plain.get(inner(key), options),
    async *list(prefix, options) {
      for await (const object of plain.list(inner(prefix), options)) yield outer(object);
    },
  };
}
