/** Tars that nobody honest writes: any member of any type under any name, as raw headers. */
import fc from 'fast-check';
import { headerChecksum } from '../../repository/tar-writer.ts';

const BLOCK = 512;

export interface RawMember {
  readonly name: string;
  /** As in the header: `0` file, `1` hard link, `2` symbolic link, `3` and `4` devices, `5` directory, `6` FIFO … */
  readonly flag: string;
  readonly link: string;
  readonly data: Uint8Array;
  /** Says another size than there is data. */
  readonly declared?: number;
  /** Pax records about this member. */
  readonly pax: readonly (readonly [keyword: string, value: string])[];
  /** Name and target by GNU's headers. */
  readonly isLong: boolean;
}

function header(name: string, flag: string, link: string, size: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0, 100);
  block.write('0000755\0', 100);
  block.write('0000000\0', 108);
  block.write('0000000\0', 116);
  block.write(`${size.toString(8).padStart(11, '0').slice(-11)}\0`, 124);
  block.write('00000000000\0', 136);
  block.write(flag, 156, 1, 'latin1');
  block.write(link, 157, 100);
  block.write('ustar\u000000', 257, 'latin1');
  block.write(`${headerChecksum(block).toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

const padded = (bytes: Uint8Array) =>
  Buffer.concat([bytes, Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK)]);

function extension(flag: string, data: Uint8Array): Buffer {
  return Buffer.concat([header('././@Extension', flag, '', data.length), padded(data)]);
}

function paxRecords(records: RawMember['pax']): Buffer {
  return Buffer.concat(
    records.map(([keyword, value]) => {
      const rest = Buffer.byteLength(keyword) + Buffer.byteLength(value) + 3;
      let length = rest + 1;
      while (String(length).length + rest !== length) length += 1;
      return Buffer.from(`${length} ${keyword}=${value}\n`);
    }),
  );
}

/** The bytes of a tar with these members and an end mark. */
export function rawTar(members: readonly RawMember[]): Buffer {
  const pieces = members.flatMap(({ name, flag, link, data, declared, pax, isLong }) => [
    ...(pax.length > 0 ? [extension('x', paxRecords(pax))] : []),
    ...(isLong ? [extension('L', Buffer.from(`${name}\0`)), extension('K', Buffer.from(`${link}\0`))] : []),
    header(name, flag, link, declared ?? data.length),
    padded(data),
  ]);
  return Buffer.concat([...pieces, Buffer.alloc(2 * BLOCK)]);
}

/** Few, so that they meet: as files, directories and links, and on the way to others. */
const MEET = [
  'a',
  'b',
  'a/b',
  'a/b/c',
  'b/c',
  './a',
  'a/',
  'a//b',
  'A',
  'base',
  'base/5',
  'base/5/1',
  'l',
  'l/x',
];
const ODD = [
  '.',
  './',
  '/',
  '/etc/passwd',
  '..',
  '../out',
  '../canary/file',
  'a/../../out',
  'a/../b',
  '..a/b..',
  ' ',
  '-rf',
  'a\nb',
  'ü',
  'u\u0308',
  '☃/𝄞',
  'nul\0behind',
  'n'.repeat(255),
  'n'.repeat(256),
  `${'d/'.repeat(60)}f`,
  `${`${'d'.repeat(200)}/`.repeat(20)}f`,
  'pg_wal',
  'pg_wal/000000010000000000000001',
  'pg_wal/archive_status',
  'pg_tblspc/5',
  'pg_tblspc/5/x',
  'pg_tblspc/6/x',
  'postmaster.pid',
  'standby.signal',
  'tablespace_map',
  'global/pg_control',
  'backup_label',
  '.walkeep-restore.json',
  'PG_15_202209061/5/1',
  '__proto__/x',
  'constructor',
];
const TARGETS = [
  '..',
  '../..',
  '../canary',
  '../canary/file',
  '/etc',
  '.',
  'a',
  'a/b',
  'b/..',
  'l/..',
  'a/b/../../..',
  '',
];

const names = fc.oneof(
  { weight: 30, arbitrary: fc.constantFrom(...MEET) },
  { weight: 6, arbitrary: fc.constantFrom(...ODD) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 40 }) },
);
const links = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...MEET) },
  { weight: 3, arbitrary: fc.constantFrom(...TARGETS) },
  { weight: 1, arbitrary: names },
);
/** What is honest comes often: else nothing would ever be unpacked. */
const flags = fc.oneof(
  { weight: 40, arbitrary: fc.constantFrom('0', '0', '5', '5', '2', '1') },
  { weight: 1, arbitrary: fc.constantFrom('3', '4', '6', '7', 'S', 'V', 'M', 'D', 'Q', '\0', 'g') },
);
const pax = fc.oneof(
  { weight: 20, arbitrary: fc.constant([]) },
  {
    weight: 1,
    arbitrary: fc.array(
      fc.oneof(
        fc.tuple(fc.constant('path'), names),
        fc.tuple(fc.constant('linkpath'), links),
        fc.tuple(
          fc.constantFrom('size', 'GNU.sparse.realsize'),
          fc.constantFrom('0', '5', '-1', '1e3', '999999999999999'),
        ),
        fc.tuple(fc.constantFrom('GNU.sparse.name', '__proto__', 'uid', 'mtime', 'uname'), names),
        fc.tuple(
          fc.constantFrom('GNU.sparse.major', 'GNU.sparse.minor', 'GNU.sparse.map'),
          fc.constantFrom('0', '1', '0,5', '2,1'),
        ),
      ),
      { minLength: 1, maxLength: 3 },
    ) as fc.Arbitrary<[string, string][]>,
  },
);

export const hostileMember: fc.Arbitrary<RawMember> = fc
  .record({
    name: names,
    flag: flags,
    link: links,
    data: fc.uint8Array({ maxLength: 700 }),
    lies: fc.option(fc.constantFrom(0, 1, 511, 8 ** 11 - 1), { freq: 40 }),
    pax,
    isLong: fc.boolean(),
  })
  .map(({ lies, data, ...member }) => {
    const hasData = ['0', '7', '\0', 'S'].includes(member.flag) && !member.name.endsWith('/');
    return {
      ...member,
      data: hasData ? data : new Uint8Array(),
      ...(lies === null ? {} : { declared: lies }),
      // Without GNU's headers a name ends after 100 bytes, or at a NUL.
      isLong: member.isLong || Buffer.byteLength(member.name) > 100,
    };
  });
