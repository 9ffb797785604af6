import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import {
  safeMemberPath,
  TAR_END,
  TarReader,
  tarEnd,
  tarHeader,
  type TarEntry,
} from '../../repository/tar.ts';
import { directory, file, inPieces, readTar, tarOf, type Member } from './members.ts';
import { hasProgram, output } from './programs.ts';

const damaged = (run: () => unknown, message: RegExp) => {
  try {
    run();
  } catch (error) {
    expect(error).toMatchObject({ code: 'object-damaged', message: expect.stringMatching(message) });
    return;
  }
  expect.unreachable('nothing was refused');
};

const awkward: Member[] = [
  directory('.'),
  file('PG_VERSION', '15\n'),
  directory('base'),
  directory('base/5', { mtimeMs: 1_795_386_280_221.29 }),
  file('base/5/16386', Buffer.alloc(8192, 7), {
    mtimeMs: 1_795_386_280_000.5,
    uname: 'postgres',
    gname: 'postgres',
  }),
  file(`${'d'.repeat(60)}/${'f'.repeat(60)}`, 'long'),
  file('ümläut – ☃ 𝄞', 'utf-8', { uname: 'bücher' }),
  file('owners', 'x', { uid: 3_000_000_000, gid: 0o7777777 + 1 }),
  file('old', 'x', { mtimeMs: -1500 }),
  file('link', '', { type: 'symlink', linkPath: 'PG_VERSION', mode: 0o777 }),
  file('far link', '', { type: 'symlink', linkPath: `../${'ö'.repeat(90)}`, mode: 0o777 }),
  file('hard', '', { type: 'hardlink', linkPath: 'PG_VERSION' }),
  file('empty'),
  file('exactly 100 ', '', { path: 'e'.repeat(100) }),
  file('one block', Buffer.alloc(512, 1)),
  file('one more', Buffer.alloc(513, 2)),
];

describe('writing and reading a tar', () => {
  it('E1: what was written is read', () => {
    expect(readTar([tarOf(awkward)])).toEqual(awkward);
  });

  const text = fc
    .stringMatching(/^[^\0/]{1,60}$/u)
    .filter((name) => name !== '.' && name !== '..' && !/\p{Cs}/u.test(name));
  const path = fc.array(text, { minLength: 1, maxLength: 4 }).map((names) => names.join('/'));
  const arbitraryMember = fc.record({
    path,
    type: fc.constantFrom<TarEntry['type'][]>('file', 'file', 'directory', 'hardlink'),
    data: fc.uint8Array({ maxLength: 1300 }),
    mode: fc.nat(0o7777),
    uid: fc.nat(0xffff_ffff),
    gid: fc.nat(0xffff_ffff),
    mtimeMs: fc.integer({ min: -1e12, max: 8e12 }),
    linkPath: path,
  });

  it('E1: any members in any pieces are read as they were written', () => {
    fc.assert(
      fc.property(
        fc.array(arbitraryMember, { maxLength: 5 }),
        fc.array(fc.integer({ min: 1, max: 1500 }), { minLength: 1, maxLength: 8 }),
        (drafts, sizes) => {
          const members = drafts.map(({ data, linkPath, ...entry }) => {
            const bytes = entry.type === 'file' ? data : new Uint8Array();
            return file(entry.path, bytes, { ...entry, ...(entry.type === 'hardlink' ? { linkPath } : {}) });
          });
          expect(readTar(inPieces(tarOf(members), sizes))).toEqual(members);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('passes data on as views, not copies', () => {
    const tar = tarOf([file('f', Buffer.alloc(2048, 3))]);
    const reader = new TarReader({
      member: () => undefined,
      data: (chunk) => expect(chunk.buffer).toBe(tar.buffer),
      memberEnd: () => undefined,
    });
    reader.write(tar);
    reader.finish();
    expect.assertions(1);
  });

  it('says sizes over 8 GiB in a pax header', () => {
    const size = 8 * 2 ** 30;
    const sizes: number[] = [];
    const reader = new TarReader({
      member: (entry) => sizes.push(entry.size),
      data: () => undefined,
      memberEnd: () => undefined,
    });
    reader.write(tarHeader({ ...file('big').entry, size }));
    expect(sizes).toEqual([size]);
    expect(tarHeader({ ...file('big').entry, size: size - 1 })).toHaveLength(512);
  });

  it('pads the end to records of 10240 bytes', () => {
    for (const written of [0, 512, 9216, 9728, 10240]) {
      const end = tarEnd(written);
      expect((written + end.length) % 10240).toBe(0);
      expect(end.length).toBeGreaterThanOrEqual(1024);
      expect(end.length).toBeLessThan(10240 + 1024);
    }
    expect(readTar([tarOf(awkward, tarEnd(tarOf(awkward).length - 1024))])).toEqual(awkward);
  });

  test.for([
    { why: 'an absolute name', entry: { path: '/etc/passwd' } },
    { why: 'a name that leaves', entry: { path: 'a/../../b' } },
    { why: 'a link to nowhere', entry: { path: 'a', type: 'symlink' as const } },
    { why: 'a directory with data', entry: { path: 'a', type: 'directory' as const, size: 1 } },
    { why: 'no time', entry: { path: 'a', mtimeMs: Number.NaN } },
  ])('S2: the writer refuses $why', ({ entry }) => {
    expect(() => tarHeader({ ...file('x').entry, ...entry })).toThrow(/can not be a member/);
  });
});

describe('a damaged tar', () => {
  const tar = tarOf(awkward);

  it('E2: cut anywhere it is refused', () => {
    for (
      let length = 0;
      length < tar.length;
      length += length % 512 === 0 ? 1 : length % 512 === 511 ? 1 : 85
    ) {
      damaged(() => readTar([tar.subarray(0, length)]), /cut after|half an end mark/);
    }
    damaged(() => readTar([tar.subarray(0, tar.length - 1)]), /cut after/);
  });

  it('E2: a flipped bit in a header is noticed', () => {
    fc.assert(
      fc.property(fc.nat(511), fc.nat(7), (byte, bit) => {
        // the checksum's own filler is not checked by anybody
        fc.pre(byte < 154 || byte > 155);
        const flipped = Buffer.from(tarOf([file('name', 'data', { uname: 'u', gname: 'g' })]));
        flipped[byte] = (flipped[byte] as number) ^ (1 << bit);
        damaged(() => readTar([flipped]), /checksum|not a number/);
      }),
    );
  });

  test.for([
    {
      why: 'a second tar behind the first',
      bytes: () => Buffer.concat([tar, tar]),
      message: /after its end mark/,
    },
    {
      why: 'half an end mark',
      bytes: () => tarOf([file('a')], Buffer.concat([TAR_END.subarray(512), tarOf([file('b')])])),
      message: /half an end mark/,
    },
    {
      why: 'endless zeros behind',
      bytes: () => Buffer.concat([tar, Buffer.alloc(17 * 2 ** 20)]),
      message: /does not end/,
    },
    { why: 'nothing', bytes: () => Buffer.alloc(0), message: /cut after 0/ },
    { why: 'no tar', bytes: () => Buffer.alloc(2048, 'x'), message: /not a number|checksum/ },
  ])('E2: $why is refused', ({ bytes, message }) => {
    damaged(() => readTar(inPieces(bytes(), [65536])), message);
  });

  it('stays refused once it was', () => {
    const reader = new TarReader({
      member: () => undefined,
      data: () => undefined,
      memberEnd: () => undefined,
    });
    damaged(() => reader.write(Buffer.alloc(512, 'x')), /not a number/);
    damaged(() => reader.write(TAR_END), /not a number/);
    damaged(() => reader.finish(), /not a number/);
  });
});

/** A header as a hostile program would make it: with a right checksum. */
function forged(entry: Partial<TarEntry>, change: (header: Buffer) => void = () => undefined): Buffer {
  const header = Buffer.from(tarHeader({ ...file('x').entry, ...entry }));
  const block = header.subarray(header.length - 512);
  change(block);
  block.fill(0x20, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}

const named =
  (name: string, flag = '0') =>
  (header: Buffer) => {
    header.fill(0, 0, 100).write(name, 0, 'latin1');
    header.write(flag, 156, 'latin1');
  };

const extension = (flag: string, data: string) =>
  Buffer.concat([
    forged({ size: Buffer.byteLength(data) }, named('././@Header', flag)),
    Buffer.from(data),
    Buffer.alloc((512 - (Buffer.byteLength(data) % 512)) % 512),
  ]);

describe('a hostile tar', () => {
  test.for([
    { why: 'an absolute name', bytes: forged({}, named('/etc/cron.d/x')), message: /absolute/ },
    { why: 'a name that leaves', bytes: forged({}, named('base/../../x')), message: /leaves/ },
    { why: 'dots as a name', bytes: forged({}, named('..')), message: /leaves/ },
    {
      why: 'an absolute name in pax',
      bytes: Buffer.concat([extension('x', '14 path=/etc/x\n'.replace('14', '15')), forged({})]),
      message: /absolute/,
    },
    {
      why: 'a NUL in a pax name',
      bytes: Buffer.concat([extension('x', '12 path=a\0b\n'), forged({})]),
      message: /NUL/,
    },
    {
      why: 'a pax record of the wrong length',
      bytes: Buffer.concat([extension('x', '99 path=ab\n'), forged({})]),
      message: /wrong length/,
    },
    {
      why: 'a pax record of length 0',
      bytes: Buffer.concat([extension('x', '0 path=ab\n'), forged({})]),
      message: /wrong length/,
    },
    { why: 'a device', bytes: forged({}, named('sda', '4')), message: /device/ },
    { why: 'an unknown type', bytes: forged({}, named('x', 'Q')), message: /unknown type/ },
    {
      why: 'a hard link that leaves',
      bytes: forged({ type: 'hardlink', linkPath: '../../etc/passwd' }),
      message: /leaves/,
    },
    {
      why: 'a root that is a link',
      bytes: forged({ type: 'symlink', linkPath: 'x' }, named('.', '2')),
      message: /root/,
    },
    {
      why: 'a long name for a giant',
      bytes: forged({ size: 2 ** 21 }, named('././@LongLink', 'L')),
      message: /header of 2097152 bytes/,
    },
    {
      why: 'a name longer than any',
      bytes: Buffer.concat([extension('L', 'a/'.repeat(3000)), forged({})]),
      message: /longer than 4096/,
    },
    {
      why: 'a directory with data',
      bytes: forged({ size: 5 }, named('d/', '5')),
      message: /directory with data/,
    },
    { why: 'a name that is not UTF-8', bytes: forged({}, named('b\xfccher')), message: /not UTF-8/ },
    {
      why: 'a negative size',
      bytes: forged({}, (header) => header.fill(0xff, 124, 136)),
      message: /negative/,
    },
    {
      why: 'a size beyond numbers',
      bytes: forged({}, (header) => header.fill(0x7f, 124, 136).fill(0x80, 124, 125)),
      message: /too large/,
    },
    {
      why: 'a file through a link',
      bytes: Buffer.concat([
        forged({ path: 'a', type: 'symlink', linkPath: '/etc' }),
        forged({ path: 'a/x' }),
      ]),
      message: /leads through/,
    },
    {
      why: 'a file over a link',
      bytes: Buffer.concat([
        forged({ path: 'a', type: 'symlink', linkPath: '/etc/x' }),
        forged({ path: './a' }),
      ]),
      message: /as a link and as a file/,
    },
    {
      why: 'a hard link through a link',
      bytes: Buffer.concat([
        forged({ path: 'a', type: 'symlink', linkPath: '/etc' }),
        forged({ path: 'b', type: 'hardlink', linkPath: 'a/passwd' }),
      ]),
      message: /leads through/,
    },
    { why: 'a long name for nothing', bytes: extension('L', 'abc'), message: /ends after the header/ },
  ])('S2: $why is refused', ({ bytes, message }) => {
    damaged(() => readTar([bytes, TAR_END]), message);
  });

  it('S2: more members or bytes than allowed are refused', () => {
    const tar = tarOf([file('a', 'xx'), file('b', 'xx'), file('c', 'xx')]);
    damaged(() => readTar([tar], { maxMembers: 2 }), /more than 2 members/);
    damaged(() => readTar([tar], { maxTotalBytes: 5 }), /more than 5 bytes/);
    expect(readTar([tar], { maxMembers: 3, maxTotalBytes: 6 })).toHaveLength(3);
  });

  it('S2: a sparse file counts with its holes', () => {
    const map = '22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n37 GNU.sparse.realsize=1000000000000\n';
    const tar = [extension('x', map), forged({ size: 512 }), Buffer.from('0\n'.padEnd(512, '\0')), TAR_END];
    damaged(() => readTar(tar, { maxTotalBytes: 1e9 }), /more than 1000000000 bytes/);
  });

  it('tells the holes of a sparse file to who asks for them', () => {
    const map = '22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n30 GNU.sparse.realsize=100000\n';
    const told: unknown[] = [];
    const reader = new TarReader({
      member: (entry) => told.push(entry.size),
      data: (chunk) => told.push(Buffer.from(chunk).toString()),
      memberEnd: () => told.push('end'),
      hole: (length) => told.push(length),
    });
    const stored = Buffer.from('2\n70000\n3\n100000\n0\n'.padEnd(512, '\0') + 'abc'.padEnd(512, '\0'));
    for (const bytes of [extension('x', map), forged({ size: 515 }), stored, TAR_END]) reader.write(bytes);
    reader.finish();
    expect(told).toEqual([100000, 70000, 'abc', 29997, 'end']);
  });

  test.for([
    ['runs backwards', '2\n700\n3\n100\n3\n'],
    ['leaves the file', '1\n99999\n6\n'],
    ['says more than there is', '1\n0\n7\n'],
    ['is no map', 'x'.repeat(30)],
    ['never ends', '400\n'],
    ['is too long', '99999999\n'],
  ])('S2: a sparse map that %s is refused', ([, text]) => {
    const map = '22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n30 GNU.sparse.realsize=100000\n';
    const stored = Buffer.from((text as string).padEnd(512, '\0') + 'abcdef'.padEnd(512, '\0'));
    damaged(() => readTar([extension('x', map), forged({ size: 518 }), stored, TAR_END]), /sparse/);
  });

  it('names what it does not read yet', () => {
    const volume = () => readTar([forged({ size: 0 }, named('x', 'M')), TAR_END]);
    expect(volume).toThrow(
      expect.objectContaining({ code: 'not-yet', message: expect.stringContaining('"M"') }),
    );
    const map = '22 GNU.sparse.major=2\n22 GNU.sparse.minor=0\n';
    const sparse = () => readTar([extension('x', map), forged({}), TAR_END]);
    expect(sparse).toThrow(expect.objectContaining({ code: 'not-yet' }));
  });

  it('leaves a FIFO out, and says so', () => {
    const skipped: string[] = [];
    const reader = new TarReader({
      member: (entry) => skipped.push(`no: ${entry.path}`),
      data: () => undefined,
      memberEnd: () => undefined,
      skipped: (path, why) => skipped.push(`${path}: ${why}`),
    });
    reader.write(forged({}, named('pipe', '6')));
    reader.write(TAR_END);
    reader.finish();
    expect(skipped).toEqual(['pipe: it is a FIFO']);
  });
});

test.for([
  ['./PG_VERSION', 'PG_VERSION'],
  ['./', '.'],
  ['.', '.'],
  ['base//5/./1', 'base/5/1'],
  ['base/5/', 'base/5'],
  ['..a/b..', '..a/b..'],
])('the member %s is written to %s', ([raw, path]) => {
  expect(safeMemberPath(raw as string)).toBe(path);
});

describe.runIf(hasProgram('python3'))('Python', () => {
  let folder: string;
  beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'walkeep-tar-'))));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('E5: its tarfile reads what we write', () => {
    writeFileSync(join(folder, 'ours.tar'), tarOf(awkward, tarEnd(tarOf(awkward).length - 1024)));
    const script = `
import json, sys, tarfile
tar = tarfile.open('ours.tar', 'r|', errorlevel=2)
rows = []
for m in tar:
    data = tar.extractfile(m).read().hex() if m.isreg() else ''
    kind = {b'0': 'file', b'1': 'hardlink', b'2': 'symlink', b'5': 'directory'}[m.type]
    rows.append([m.name, kind, m.size, m.mode, m.uid, m.gid, m.uname, m.gname, round(m.mtime * 1000, 3), m.linkname, data])
json.dump(rows, sys.stdout)`;
    const rows = JSON.parse(output('python3', ['-c', script], { cwd: folder })) as unknown[];
    expect(rows).toEqual(
      awkward.map(({ entry, data }) => [
        entry.path,
        entry.type,
        entry.size,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.uname ?? '',
        entry.gname ?? '',
        Math.round(entry.mtimeMs * 1000) / 1000,
        entry.linkPath ?? '',
        data.toString('hex'),
      ]),
    );
  });

  test.for(['PAX', 'GNU', 'USTAR'])('E5: we read the %s tars of its tarfile', (format) => {
    const tree = join(folder, `tree-${format}`);
    mkdirSync(join(tree, 'a'.repeat(90), 'b'.repeat(60)), { recursive: true });
    writeFileSync(join(tree, 'a'.repeat(90), 'b'.repeat(60), 'file'), 'deep');
    writeFileSync(join(tree, 'plain'), Buffer.alloc(1000, 1));
    const script = `
import sys, tarfile
tar = tarfile.open(sys.argv[1], 'w', format=tarfile.${format}_FORMAT, pax_headers={'comment': 'x'} if '${format}' == 'PAX' else None)
tar.add(sys.argv[2], arcname='.')
tar.close()`;
    output('python3', ['-c', script, join(folder, `${format}.tar`), tree], { cwd: folder });
    const members = readTar(inPieces(readFileSync(join(folder, `${format}.tar`)), [1000]));
    const read = new Map(members.map(({ entry, data }) => [entry.path, data.toString()]));
    expect(read.get(`${'a'.repeat(90)}/${'b'.repeat(60)}/file`)).toBe('deep');
    expect(read.get('plain')).toBe('\x01'.repeat(1000));
    expect(read.get('.')).toBe('');
  });
});

describe.runIf(hasProgram('tar'))('GNU tar', () => {
  let folder: string;
  beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'walkeep-tar-'))));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('E5: it lists and extracts what we write', () => {
    writeFileSync(join(folder, 'ours.tar'), tarOf(awkward, tarEnd(tarOf(awkward).length - 1024)));
    const listed = output('tar', ['--quoting-style=literal', '-tf', 'ours.tar'], { cwd: folder })
      .trimEnd()
      .split('\n');
    expect(listed).toEqual(
      awkward.map(({ entry }) => (entry.type === 'directory' ? `${entry.path}/` : entry.path)),
    );
    mkdirSync(join(folder, 'out'));
    output('tar', ['--no-same-owner', '-xpf', 'ours.tar', '-C', 'out'], { cwd: folder });
    for (const { entry, data } of awkward.filter((member) => member.entry.type === 'file')) {
      expect(readFileSync(join(folder, 'out', entry.path))).toEqual(data);
      expect(Math.abs(statSync(join(folder, 'out', entry.path)).mtimeMs - entry.mtimeMs)).toBeLessThan(0.01);
    }
    expect(statSync(join(folder, 'out')).mode & 0o777).toBe(0o700);
  });

  // many runs: more than the four of an old header, more than the 21 of its extension
  const sparse = Buffer.alloc(3_000_000);
  for (let i = 0; i < 40; i += 1) sparse.write(`run ${i}`, i * 65536 + 4096);

  test.for([
    ['--format=gnu'],
    ['--format=pax', '--sparse-version=0.0'],
    ['--format=pax', '--sparse-version=0.1'],
    ['--format=pax', '--sparse-version=1.0'],
    ['--format=ustar'],
    ['--format=v7'],
    ['--format=gnu', '-b', '64'],
  ])('E5: we read the sparse, linked and long members of %s', (options) => {
    const name = options.join('').replaceAll(/\W/g, '');
    const tree = join(folder, name);
    mkdirSync(join(tree, 'sub'), { recursive: true });
    output(
      'sh',
      [
        '-c',
        'for i in $(seq 0 39); do printf "run $i" | dd of=sparse bs=1 seek=$((i*65536+4096)) conv=notrunc status=none; done; truncate -s 3000000 sparse; truncate -s 1000000 hole; printf x > sub/file; ln sub/file sub/hard; ln -s file sub/soft',
      ],
      { cwd: tree },
    );
    const longs = !name.includes('v7');
    if (longs) writeFileSync(join(tree, 'sub', 'l'.repeat(99)), 'long');
    if (!longs || name.includes('ustar')) rmSync(join(tree, 'hole'));
    if (name.includes('gnu') || name.includes('pax'))
      writeFileSync(join(tree, 'sub', 'l'.repeat(180)), 'longer');
    const sparseFlag = name.includes('v7') || name.includes('ustar') ? [] : ['--sparse'];
    output('tar', [...options, ...sparseFlag, '-cf', join(folder, `${name}.tar`), '-C', tree, '.']);
    const tar = readFileSync(join(folder, `${name}.tar`));
    const members = new Map(
      readTar(inPieces(tar, [700, 1, 4096])).map((member) => [member.entry.path, member]),
    );
    expect(members.get('sparse')?.data.equals(sparse)).toBe(true);
    expect(members.get('sparse')?.entry.size).toBe(3_000_000);
    if (sparseFlag.length > 0) {
      expect(tar.length).toBeLessThan(1_000_000);
      expect(members.get('hole')?.data.equals(Buffer.alloc(1_000_000))).toBe(true);
      expect(members.get(`sub/${'l'.repeat(180)}`)?.data.toString()).toBe('longer');
    }
    if (longs) expect(members.get(`sub/${'l'.repeat(99)}`)?.data.toString()).toBe('long');
    expect(members.get('sub/soft')?.entry).toMatchObject({ type: 'symlink', linkPath: 'file' });
    const [link] = [...members.values()].filter((member) => member.entry.type === 'hardlink');
    expect(new Set([link?.entry.path, link?.entry.linkPath])).toEqual(new Set(['sub/file', 'sub/hard']));
    for (let length = 0; length < tar.length; length += 15_013) {
      try {
        readTar([tar.subarray(0, length)]);
        expect(length).toBeGreaterThan(tar.length - 70_000);
      } catch (error) {
        expect(isBackupError(error, 'object-damaged')).toBe(true);
      }
    }
  });
});
