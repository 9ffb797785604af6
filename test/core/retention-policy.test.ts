import { describe, expect, test } from 'vitest';
import { isRetentionPolicy, parseRetentionPolicy } from '../../core/retention-policy.ts';

const DAY = 86_400_000;

describe('retentionPolicy', () => {
  test.for([
    ['30d', 30 * DAY],
    ['4w', 28 * DAY],
    ['6m', 6 * 31 * DAY],
    ['1d', DAY],
  ] as const)('%s keeps a window of %d ms', ([text, windowMs]) => {
    expect(parseRetentionPolicy(text)).toMatchObject({ windowMs });
  });

  test.for(['', '0d', '030d', '30', 'd', '30D', '30 d', '1y', '-1d', '99999999999999d'])(
    '"%s" is refused',
    (text) => {
      expect(isRetentionPolicy(text)).toBe(false);
      expect(() => parseRetentionPolicy(text)).toThrow(expect.objectContaining({ code: 'format-invalid' }));
    },
  );
});
