import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { segmentName } from '../../core/segment.ts';
import { parseLsn } from '../../core/lsn.ts';
import { identifySegment, requireFittingTimeline } from '../../postgres/wal-identity.ts';
import { parseWalHeader, WAL_PAGE_MAGIC } from '../../postgres/wal-page.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';

const MiB = 1024 * 1024;
const NAME = '000000020000000100000003';

const segment = (name: string) => ({ kind: 'segment', name, segment: name as never }) as const;

describe('the header of a WAL segment', () => {
  test.for([...WAL_PAGE_MAGIC])('is read where its magic is 0x%x, PostgreSQL %i', ([magic, majorVersion]) => {
    expect(parseWalHeader(makeSegment(NAME, { magic }))).toEqual({
      magic,
      majorVersion,
      systemId: SYSTEM_ID.toString(),
      timeline: 2,
      pageAddress: (1n << 32n) + 3n * BigInt(MiB),
      segmentSize: MiB,
      blockSize: 8192,
    });
  });

  it('holds a system identifier of all 64 bits', () => {
    const systemId = 0xffff_ffff_ffff_fffen;
    expect(parseWalHeader(makeSegment(NAME, { systemId })).systemId).toBe('18446744073709551614');
  });

  it('is read in the other byte order too', () => {
    const bytes = makeSegment(NAME);
    const view = new DataView(bytes.buffer);
    for (const [offset, size] of [
      [0, 2],
      [2, 2],
      [4, 4],
      [8, 8],
      [24, 8],
      [32, 4],
      [36, 4],
    ] as const) {
      new Uint8Array(view.buffer, offset, size).reverse();
    }
    expect(parseWalHeader(bytes)).toEqual(parseWalHeader(makeSegment(NAME)));
  });

  test.for([
    { why: 'another magic', shape: { magic: 0xd101 }, message: /0xD101/ },
    { why: 'a short header', shape: { info: 0 }, message: /not the first page/ },
    { why: 'an unknown flag', shape: { info: 0x12 }, message: /not the first page/ },
    {
      why: 'a page from the middle',
      shape: { pageAddress: 8192n },
      message: /no WAL segment begins at 0\/2000/,
    },
    { why: 'timeline 0', shape: { timeline: 0 }, message: /timeline 0/ },
  ])('A4: is refused with $why', ({ shape, message }) => {
    expect(() => parseWalHeader(makeSegment(NAME, shape))).toThrow(message);
  });

  it('A4: is refused when the segments have another size than expected', () => {
    expect(() => parseWalHeader(makeSegment(NAME), { segmentSize: 16 * MiB })).toThrow(
      /16777216 bytes expected/,
    );
  });

  it('never reads beyond what it is given', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        try {
          parseWalHeader(bytes);
        } catch (error) {
          expect(error).toHaveProperty('code', 'format-invalid');
        }
      }),
    );
  });
});

describe('a segment and its name', () => {
  it('A4: fit for every timeline, number and size', () => {
    const sizes = fc.constantFrom(MiB, 2 * MiB, 16 * MiB);
    fc.assert(
      fc.property(
        sizes,
        fc.integer({ min: 1, max: 0xffff_ffff }),
        fc.nat(1 << 24),
        (segmentSize, timeline, number) => {
          const name = segmentName(timeline, BigInt(number), segmentSize);
          expect(identifySegment(segment(name), makeSegment(name, { segmentSize })).timeline).toBe(timeline);
          const next = segmentName(timeline, BigInt(number) + 1n, segmentSize);
          expect(() => identifySegment(segment(next), makeSegment(name, { segmentSize }))).toThrow(
            /expected/,
          );
        },
      ),
      { numRuns: 20 },
    );
  });

  it('A4: do not fit when the file is longer or shorter than its header says', () => {
    const bytes = makeSegment(NAME).subarray(0, MiB / 2);
    expect(() => identifySegment(segment(NAME), bytes)).toThrow(/has 524288 bytes/);
  });

  const history = [{ timeline: 1, switchedAt: parseLsn('1/380000') }];

  test.for([
    { why: 'the own timeline at its first segment, after a switch at the boundary', page: 2, at: '1/300000' },
    { why: 'the parent, when the switch is inside the segment', page: 1, at: '1/380000' },
  ])('A4: fit with a page of $why', ({ page, at }) => {
    const switches = [{ timeline: 1, switchedAt: parseLsn(at) }];
    const header = identifySegment(segment(NAME), makeSegment(NAME, { timeline: page }));
    requireFittingTimeline(segment(NAME), header, switches);
  });

  it('A4: do not fit with a page of the parent after the switch', () => {
    const name = '000000020000000100000004';
    const header = identifySegment(segment(name), makeSegment(name, { timeline: 1 }));
    expect(() => requireFittingTimeline(segment(name), header, history)).toThrow(/belongs to timeline 2/);
  });

  it('A4: do not fit with a page of a later timeline', () => {
    expect(() => identifySegment(segment(NAME), makeSegment(NAME, { timeline: 3 }))).toThrow(
      /later than its name/,
    );
  });
});
