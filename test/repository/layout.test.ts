import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import {
  backupInfoKey,
  keepKey,
  looksLikePart,
  ownKey,
  parsePartName,
  parseWalObjectName,
  partKey,
  partName,
  walKey,
  type PartArea,
} from '../../repository/layout.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { CODECS } from '../../streams/codec.ts';

describe('keys', () => {
  test.for([
    ['pg/base/20261122T222531/backup.info', backupInfoKey('pg', '20261122T222531')],
    ['pg/base/20261122T222531/data.tar', partKey('pg', '20261122T222531', 'data', 0, 'none')],
    ['pg/base/20261122T222531/data_0002.tar.gz', partKey('pg', '20261122T222531', 'data', 2, 'gzip')],
    ['pg/base/20261122T222531/16384_12345.tar.zst', partKey('pg', '20261122T222531', '16384', 12345, 'zstd')],
    [
      'pg/wals/0000000100000000/000000010000000000000003.lz4',
      walKey('pg', '000000010000000000000003', 'lz4'),
    ],
    [
      'pg/wals/0000000100000000/000000010000000000000003.partial',
      walKey('pg', '000000010000000000000003.partial', 'none'),
    ],
    [
      'pg/wals/0000000100000000/000000010000000000000003.00000028.backup.gz',
      walKey('pg', '000000010000000000000003.00000028.backup', 'gzip'),
    ],
    ['pg/wals/00000002.history.gz', walKey('pg', '00000002.history', 'gzip')],
    ['pg/base/20261122T222531/annotations/keep', keepKey('pg', '20261122T222531')],
    ['pg/walkeep/backups/x/objects.json', ownKey('pg', 'backups', 'x', 'objects.json')],
  ])('E5: %s', ([expected, key]) => {
    expect(key).toBe(expected);
  });

  test.for([
    ['none', ''],
    ['bzip2', '.bz2'],
    ['gzip', '.gz'],
    ['lz4', '.lz4'],
    ['snappy', '.snappy'],
    ['xz', '.xz'],
    ['zstd', '.zst'],
  ] as const)('E5: what %s compressed ends in "%s", as barman-cloud looks for it', ([by, suffix]) => {
    expect(partName('data', 0, by)).toBe(`data.tar${suffix}`);
    expect(walKey('pg', '00000002.history', by)).toBe(`pg/wals/00000002.history${suffix}`);
  });

  const codec = fc.constantFrom(...CODECS);
  const area = fc.oneof(
    fc.constant<PartArea>('data'),
    fc.integer({ min: 1, max: 0xffff_ffff }).map((oid): PartArea => `${oid}`),
  );

  it('E5: every name of a part is read as it was built, and no other name is', () => {
    fc.assert(
      fc.property(area, fc.nat(20_000), codec, (of, index, by) => {
        expect(parsePartName(partName(of, index, by))).toEqual({ area: of, index, codec: by });
      }),
    );
    for (const name of [
      'data_x.json',
      'data.tar.br',
      'data_0000.tar',
      'data_1.tar',
      '016384.tar',
      '0.tar',
      '4294967296.tar',
      'data.tar.gz.gz',
      'backup_label',
      'Data.tar',
    ]) {
      expect(parsePartName(name), name).toBeUndefined();
    }
  });

  test.for([
    ['data_x.tar.gz', true],
    ['data.tar.br', true],
    ['16384_0001.tar', true],
    ['data_x.json', false],
    ['backup.info', false],
  ] as const)('stock would take %s for a part: %s', ([name, expected]) => {
    expect(looksLikePart(name)).toBe(expected);
  });

  test.for([
    ['000000010000000000000003', '000000010000000000000003', 'none'],
    ['000000010000000000000003.gz', '000000010000000000000003', 'gzip'],
    ['000000010000000000000003.partial.zst', '000000010000000000000003.partial', 'zstd'],
    ['00000002.history.bz2', '00000002.history', 'bzip2'],
  ])('the object %s is the WAL file %s in %s', ([name, fileName, by]) => {
    expect(parseWalObjectName(name as string)).toEqual({ fileName, codec: by });
  });

  test.for([
    '00000001000000000000000a',
    '000000010000000000000003.gz.gz',
    '000000010000000000000003.zstd',
    'x.gz',
    '.gz',
    '',
  ])('the object "%s" is no WAL file', (name) => {
    expect(parseWalObjectName(name)).toBeUndefined();
  });
});

describe('names from outside', () => {
  test.for([
    '',
    '/',
    '/pg',
    'pg/',
    'a//b',
    '.',
    '..',
    'a/../b',
    'a/./b',
    'a\nb',
    'a\0',
    '\ud800',
    'x'.repeat(256),
  ])('S2: the server name %j is refused', (server) => {
    expect(() => createRepository(createMemoryStore(), server)).toThrow(
      expect.objectContaining({ code: 'config-invalid' }),
    );
  });

  it('E5: other server names are used as they are', () => {
    for (const server of ['pg-main', 'team/pg', 'Prod DB ü', '..a']) {
      expect(createRepository(createMemoryStore(), server).url).toBe(`memory:/${server}`);
    }
  });

  test.for(['', '20261122', '20261122T2225310', '../x', '20261122T22253a', 'latest'])(
    'S2: the backup id %j is refused',
    (id) => {
      expect(() => backupInfoKey('pg', id)).toThrow(expect.objectContaining({ code: 'format-invalid' }));
    },
  );

  test.for(['', '..', '.', 'a/b', 'a\nb'])('S2: our own folder is not left by %j', (element) => {
    expect(() => ownKey('pg', element)).toThrow(expect.objectContaining({ code: 'format-invalid' }));
  });

  test.for(['', '..', 'x', '00000001000000000000000g', '../000000010000000000000003'])(
    'S2: the WAL file %j is refused',
    (name) => {
      expect(() => walKey('pg', name, 'none')).toThrow(expect.objectContaining({ code: 'format-invalid' }));
    },
  );
});
