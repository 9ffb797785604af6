import { closeSync, openSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatLsn, parseLsn, toLsn } from '../../core/lsn.ts';
import { createCountSuspects } from '../../postgres/page-checksum-simd.ts';
import {
  CHECKSUM_LAYOUT,
  findDamagedPages,
  isPageIntact,
  pageChecksum,
  pageLsn,
  parseRelationFile,
} from '../../postgres/page-checksum.ts';
import { isRealDamage, openFile, type DamagedPage } from '../../postgres/read-file-pages.ts';
import { makeTempDir } from '../support/temp.ts';

const PAGE = 8192;

/** A page with a header and some content, whose checksum fits. */
function makePage(block: number, seed = 1, lsn = 0x1000000n): Buffer {
  const page = Buffer.alloc(PAGE);
  for (let i = 24; i < PAGE; i += 1) page[i] = (i * seed) & 0xff;
  page.writeUInt32LE(Number(lsn >> 32n), 0);
  page.writeUInt32LE(Number(lsn & 0xffff_ffffn), 4);
  page.writeUInt16LE(40, 12);
  page.writeUInt16LE(8000, 14);
  page.writeUInt16LE(8192, 16);
  page.writeUInt16LE(8192 + 4, 18);
  page.writeUInt16LE(pageChecksum(page, block), 8);
  return page;
}

describe('pages', () => {
  it('B5: any flipped bit is found', () => {
    fc.assert(
      fc.property(fc.nat(0xffff_ffff), fc.nat(PAGE * 8 - 1), (block, bit) => {
        const page = makePage(block, 7);
        expect(isPageIntact(page, block)).toBe(true);
        page[bit >> 3]! ^= 1 << (bit & 7);
        expect(isPageIntact(page, block)).toBe(false);
      }),
      { numRuns: 300 },
    );
  });

  it('B5: a page in the place of another is found', () => {
    expect(isPageIntact(makePage(5), 6)).toBe(false);
  });

  it('a page of zeros is new; one with anything in it is not', () => {
    const page = Buffer.alloc(PAGE);
    expect(isPageIntact(page, 0)).toBe(true);
    page[5000] = 1;
    expect(isPageIntact(page, 0)).toBe(false);
  });

  it('are looked at one by one, and left as they were', () => {
    const bytes = Buffer.concat([
      makePage(100),
      makePage(7),
      Buffer.alloc(PAGE),
      makePage(103),
      Buffer.from('tail'),
    ]);
    const before = Buffer.from(bytes);
    expect(findDamagedPages(bytes, 100, PAGE)).toEqual([1]);
    expect(bytes.equals(before)).toBe(true);
  });

  it('B5: the fast way of looking finds all that the slow one does', () => {
    const count = createCountSuspects(CHECKSUM_LAYOUT)!;
    expect(count).toBeDefined();
    fc.assert(
      fc.property(
        fc.array(fc.nat(2), { minLength: 1, maxLength: 5 }),
        fc.nat(0x7fff_ffff),
        fc.nat(250),
        (kinds, first, seed) => {
          const pages = kinds.map((kind, index) => {
            const page = kind === 2 ? Buffer.alloc(PAGE) : makePage(first + index, seed + 1);
            if (kind === 1) page[100 + seed] = (page[100 + seed]! + 1) & 0xff;
            return page;
          });
          expect(count(Buffer.concat(pages), first, PAGE)).toBe(kinds.filter((kind) => kind > 0).length);
        },
      ),
    );
    // Other page sizes that PostgreSQL can be built with, and block numbers beyond 31 bits.
    for (const size of [1024, 32 * 1024]) {
      const page = Buffer.alloc(size, 3);
      page.writeUInt16LE(pageChecksum(page, 0xffff_fff0), 8);
      expect([count(page, 0xffff_fff0, size), count(page, 0xffff_fff1, size)]).toEqual([0, 1]);
    }
  });

  it('say where in the WAL they were changed', () => {
    expect(formatLsn(pageLsn(makePage(0, 1, 0x12_3456_789an)))).toBe('12/3456789A');
  });

  it.for([
    ['base/5/16385', 0],
    ['base/5/16385.3', 3 * 131072],
    ['base/5/16385_vm', 0],
    ['base/5/16385_fsm.1', 131072],
    ['global/1262', 0],
    ['PG_15_202209061/5/16400', 0],
    ['pg_tblspc/16386/PG_15_202209061/5/16400.1', 131072],
    ['base/5/16385_init', 0],
  ] as const)('%s is of a relation', ([path, firstBlock]) => {
    expect(parseRelationFile(path, 131072)).toEqual({ firstBlock });
  });

  it.for([
    'base/5/PG_VERSION',
    'base/5/pg_filenode.map',
    'global/pg_control',
    'pg_xact/0000',
    'pg_stat/1',
    'base/5/1.x',
  ])('%s has no pages', (path) => {
    expect(parseRelationFile(path, 131072)).toBeUndefined();
  });
});

describe('openFile', () => {
  function read(path: string, length: number, firstBlock = 0) {
    const damage: DamagedPage[] = [];
    const file = openFile(path, {
      relation: { firstBlock },
      blockSize: PAGE,
      onDamage: (page) => damage.push(page),
    });
    const target = Buffer.alloc(length, 0xff);
    file?.read(target);
    file?.close();
    return { target, damage, file };
  }

  it('B5: names a damaged page by its block in the relation', () => {
    const path = join(makeTempDir(), '16385.1');
    writeFileSync(path, Buffer.concat([makePage(131072), makePage(9, 3), makePage(131074)]));
    expect(read(path, 3 * PAGE, 131072).damage).toEqual([{ block: 131073, lsn: '0/1000000' }]);
  });

  it('B5: a page that was being written is read again, and the whole one is kept', async () => {
    const path = join(makeTempDir(), '1');
    const torn = Buffer.from(makePage(0, 5));
    torn.fill(0x11, 4096);
    writeFileSync(path, torn);
    const { Worker } = await import('node:worker_threads');
    const whole = makePage(0, 5);
    // The reader blocks this thread: somebody else has to finish the page.
    const writer = new Worker(
      `const fs = require('node:fs'); const { workerData: [path, page] } = require('node:worker_threads');
       const fd = fs.openSync(path, 'r+'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5); fs.writeSync(fd, page, 0, page.length, 0);`,
      { eval: true, workerData: [path, whole] },
    );
    await new Promise((resolve) => writer.once('online', resolve));
    const { target, damage } = read(path, PAGE);
    await writer.terminate();
    expect(damage).toEqual([]);
    expect(target.equals(whole)).toBe(true);
  });

  it('B4: what shrank is filled with zeros, what grew is cut, what vanished is no error', () => {
    const path = join(makeTempDir(), '1');
    writeFileSync(path, Buffer.concat([makePage(0), makePage(1)]));
    const file = openFile(path)!;
    truncateSync(path, PAGE);
    const target = Buffer.alloc(2 * PAGE, 0xff);
    file.read(target);
    file.close();
    expect(target.subarray(0, PAGE).equals(makePage(0))).toBe(true);
    expect(target.subarray(PAGE).every((byte) => byte === 0)).toBe(true);

    const growing = openFile(path)!;
    const fd = openSync(path, 'a');
    writeSync(fd, makePage(1));
    closeSync(fd);
    expect(growing.stats.size).toBe(PAGE);
    growing.close();
    expect(openFile(join(makeTempDir(), 'gone'))).toBeUndefined();
  });

  it('B5: a file that can not be read is an error that names it', () => {
    const directory = makeTempDir();
    expect(() => read(directory, PAGE)).toThrow(`can not read ${directory}`);
  });

  it('B5: damage is real before the beginning of the backup and after its end, and replay’s in between', () => {
    const [begin, end] = [parseLsn('0/2000028'), parseLsn('0/2000100')];
    expect(isRealDamage(toLsn(begin - 1n), begin, end)).toBe(true);
    expect(isRealDamage(begin, begin, end)).toBe(false);
    expect(isRealDamage(end, begin, end)).toBe(false);
    expect(isRealDamage(parseLsn('FF/0'), begin, end)).toBe(true);
  });
});
