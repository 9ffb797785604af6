import { describe, expect, it, test } from 'vitest';
import { formatAge, formatBytes, formatDuration, formatTable, printable } from '../../cli/output.ts';
import { progressLine, progressText } from '../../cli/progress.ts';

describe('what the command line prints', () => {
  it('tables are kubectl’s: three spaces between columns, nothing behind the last', () => {
    expect(
      formatTable(
        ['NAME', 'PHASE', 'ERROR'],
        [
          ['a', 'completed', ''],
          ['longer-name', 'failed', 'no room'],
        ],
      ),
    ).toBe('NAME          PHASE       ERROR\na             completed\nlonger-name   failed      no room\n');
  });

  it('S2: nothing that a repository holds reaches the terminal as an escape', () => {
    const hostile = 'a\u001b]0;owned\u0007\u009b31m\u202eb\r\nc';
    const table = formatTable(['NAME', 'ERROR'], [[hostile, 'x\u001b[2K']]);
    expect(table).not.toMatch(/[\u001b\u0007\u009b\u202e\r]/);
    expect(table.split('\n')).toHaveLength(3);
    expect(printable(`${hostile}é→`)).toBe('a\ufffd]0;owned\ufffd\ufffd31m\ufffdb\ufffd\ncé→');
  });

  test.for([
    [0, '0s'],
    [119, '119s'],
    [120, '2m'],
    [7199, '119m'],
    [7200, '2h'],
    [172_799, '47h'],
    [172_800, '2d'],
  ] as const)('%d seconds ago is %s', ([seconds, text]) => {
    const now = new Date('2026-11-25T00:00:00Z');
    expect(formatAge(new Date(now.getTime() - seconds * 1000), now)).toBe(text);
  });

  test.for([
    [0, '0 B'],
    [1023, '1023 B'],
    [1536, '1.5 KiB'],
    [16 * 1024 * 1024, '16.0 MiB'],
    [5 * 1024 ** 4, '5.0 TiB'],
  ] as const)('%d bytes are %s', ([bytes, text]) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test.for([
    [850, '850 ms'],
    [12_000, '12 s'],
    [200_000, '3 min 20 s'],
    [7_500_000, '2 h 5 min'],
  ] as const)('%d ms are %s', ([ms, text]) => {
    expect(formatDuration(ms)).toBe(text);
  });

  it('a progress bar shows share, rate and time left', () => {
    const GiB = 1024 ** 3;
    const report = {
      phase: 'copying',
      doneBytes: 12.3 * GiB,
      totalBytes: 40 * GiB,
      bytesPerSecond: 210 * 1024 ** 2,
      eta: '2026-11-24T02:02:15.000Z',
    };
    const now = Date.parse('2026-11-24T02:00:00Z');
    expect(progressText(report, now)).toBe('12.3 GiB of 40 GiB, 30 %, 210 MiB/s, about 2 min left');
    expect(progressLine(report, now)).toBe(
      'copying  [#######.................] 12.3 GiB of 40 GiB, 30 %, 210 MiB/s, about 2 min left',
    );
    expect(progressText({ ...report, eta: '2026-11-24T02:00:43Z' }, now)).toContain('about 45 s left');
    expect(
      progressText({ phase: 'paused', doneBytes: GiB, totalBytes: 2 * GiB, bytesPerSecond: 0 }, now),
    ).toBe('1 GiB of 2 GiB, 50 %, 0 B/s');
  });

  it('a progress bar without a known end shows what is done', () => {
    expect(progressLine({ phase: 'starting', doneBytes: 0, totalBytes: 0 }, 10)).toBe(
      "waiting for PostgreSQL's checkpoint",
    );
    expect(progressLine({ phase: 'copying', doneBytes: 1024, totalBytes: 0 }, 10)).toBe('copying  1 KiB');
  });
});
