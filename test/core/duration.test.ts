import { describe, expect, it, test } from 'vitest';
import { formatDuration, parseDuration, parsePostgresSeconds } from '../../core/duration.ts';

describe('durations', () => {
  test.for([
    ['90s', 90_000],
    ['10m', 600_000],
    ['26h', 93_600_000],
    ['8d', 691_200_000],
    ['1h30m', 5_400_000],
    ['250ms', 250],
  ] as const)('%s is %d ms', ([text, ms]) => {
    expect(parseDuration(text)).toBe(ms);
  });

  test.for(['', '10', 'm', '1 h', '-1h', '1.5h', '1y', '1h 30m', 'P1D'])('"%s" is none', (text) => {
    expect(() => parseDuration(text)).toThrow(expect.objectContaining({ code: 'format-invalid' }));
  });

  it('are written shortly', () => {
    expect([90_000, 86_400_000, 250, 0].map((ms) => formatDuration(ms))).toEqual([
      '1m 30s',
      '1d',
      '250ms',
      '0ms',
    ]);
  });

  test.for([
    ['5min', 300],
    ['5m', 300],
    ['300', 300],
    ['300s', 300],
    ['1h', 3600],
    ['1500ms', 2],
  ] as const)('PostgreSQL takes %s for %d s', ([text, seconds]) => {
    expect(parsePostgresSeconds(text)).toBe(seconds);
  });

  it('refuses what PostgreSQL would', () => {
    expect(() => parsePostgresSeconds('5 weeks')).toThrow('not a time PostgreSQL understands');
  });
});
