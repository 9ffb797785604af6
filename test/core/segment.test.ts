import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { parseLsn, toLsn } from '../../core/lsn.ts';
import {
  isSegmentSize,
  nextSegment,
  parseSegmentName,
  parseWalFileName,
  segmentAt,
  segmentBefore,
  segmentName,
  segmentNumber,
  segmentStart,
  timelineOf,
} from '../../core/segment.ts';

const MiB = 1024 * 1024;

describe('WAL segment names', () => {
  test.for([
    { name: '0000000100000000000000FF', size: 16 * MiB, next: '000000010000000100000000' },
    { name: '000000010000000000000001', size: 16 * MiB, next: '000000010000000000000002' },
    { name: '0000000A0000000000000FFF', size: MiB, next: '0000000A0000000100000000' },
    { name: '000000010000000000000003', size: 1024 * MiB, next: '000000010000000100000000' },
  ])('$name of $size bytes is followed by $next', ({ name, size, next }) => {
    expect(nextSegment(parseSegmentName(name), size)).toBe(next);
  });

  it('a backup begins in the segment of its first byte and ends in the one before a boundary', () => {
    expect(segmentAt(1, parseLsn('0/3000000'), 16 * MiB)).toBe('000000010000000000000003');
    expect(segmentBefore(1, parseLsn('0/3000000'), 16 * MiB)).toBe('000000010000000000000002');
    expect(segmentBefore(1, parseLsn('0/3000001'), 16 * MiB)).toBe('000000010000000000000003');
  });

  it('timelines from 10 on are hexadecimal', () => {
    expect(timelineOf(parseSegmentName('0000000A0000000000000001'))).toBe(10);
    expect(segmentName(11, 1n, 16 * MiB)).toBe('0000000B0000000000000001');
  });

  it('a name that no segment of that size can have is refused', () => {
    expect(() => segmentNumber(parseSegmentName('000000010000000000000100'), 16 * MiB)).toThrow(
      'can not be a segment',
    );
    expect(() => parseSegmentName('00000001000000000000000a')).toThrow('not a WAL segment name');
  });

  it('names, numbers and positions agree for every size', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 0x7fffffff }),
        fc.bigInt({ min: 0n, max: 0xffffffffffffffffn }),
        fc.integer({ min: 20, max: 30 }),
        (timeline, position, exponent) => {
          const size = 2 ** exponent;
          expect(isSegmentSize(size)).toBe(true);
          const name = segmentAt(timeline, toLsn(position), size);
          expect(parseSegmentName(name)).toBe(name);
          expect(timelineOf(name)).toBe(timeline);
          const start = segmentStart(name, size);
          expect(start <= position && position < start + BigInt(size)).toBe(true);
        },
      ),
    );
  });
});

describe('what PostgreSQL asks to archive', () => {
  test.for([
    ['000000010000000000000001', 'segment'],
    ['000000010000000000000001.partial', 'partial'],
    ['000000010000000000000001.00000028.backup', 'backup-history'],
    ['00000002.history', 'history'],
  ] as const)('%s is a %s', ([name, kind]) => {
    expect(parseWalFileName(name)?.kind).toBe(kind);
  });

  test.for([
    '',
    'foo',
    '../000000010000000000000001',
    '000000010000000000000001.gz',
    '00000001000000000000000a',
    'RECOVERYXLOG',
  ])('"%s" is no WAL file', (name) => {
    expect(parseWalFileName(name)).toBeUndefined();
  });
});
