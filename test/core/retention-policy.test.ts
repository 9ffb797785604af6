import { describe, expect, test } from 'vitest';
import { isRetentionPolicy, keepsLess, parseRetentionPolicy } from '../../core/retention-policy.ts';

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

describe('another retentionPolicy keeps less', () => {
  test.for([
    { why: 'a shorter window', before: '30d', after: '29d', less: true },
    { why: 'a longer one', before: '4w', after: '30d', less: false },
    { why: 'the same in other words', before: '4w', after: '28d', less: false },
    { why: 'the first one, where nothing was deleted', before: undefined, after: '6m', less: true },
    { why: 'the first one beside a policy', before: undefined, after: '1d', policy: true, less: false },
    { why: 'none any more: nothing is deleted', before: '30d', after: undefined, less: false },
    {
      why: 'none beside a policy, which decides alone',
      before: '30d',
      after: undefined,
      policy: true,
      less: true,
    },
    { why: 'a shorter one beside a policy', before: '30d', after: '1d', policy: true, less: true },
    { why: 'none as before', before: undefined, after: undefined, policy: true, less: false },
  ])('D3: $why: $less', ({ before, after, policy = false, less }) => {
    const rules = (window: string | undefined) => ({ window, hasPolicy: policy });
    expect(keepsLess(rules(before), rules(after))).toBe(less);
  });
});
