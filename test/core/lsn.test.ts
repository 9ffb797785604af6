import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { formatLsn, parseLsn, toLsn } from '../../core/lsn.ts';

describe('LSN', () => {
  test.for([
    ['0/0', 0n],
    ['0/3000028', 0x3000028n],
    ['16/B374D848', 0x16b374d848n],
    ['FFFFFFFF/FFFFFFFF', 0xffffffffffffffffn],
  ] as const)('%s is the byte %d', ([text, value]) => {
    expect(parseLsn(text)).toBe(value);
    expect(formatLsn(toLsn(value))).toBe(text);
  });

  test.for(['', '0', '/', '0/', '0/G', '123456789/0', '0/3000028 ', '0x3/4'])('"%s" is refused', (text) => {
    expect(() => parseLsn(text)).toThrow(BackupError);
  });

  it('reads back what it prints, for every position', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 0xffffffffffffffffn }), (value) => {
        expect(parseLsn(formatLsn(toLsn(value)))).toBe(value);
      }),
    );
  });
});
