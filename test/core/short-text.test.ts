import fc from 'fast-check';
import { expect, it } from 'vitest';
import { utf8Bytes } from '../../core/fingerprint.ts';
import { cutText, withShortTexts } from '../../core/short-text.ts';

it('F4: a text is cut between characters, by the bytes it takes, and one that fits is left as it is', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'grapheme', maxLength: 300 }),
      fc.integer({ min: 3, max: 400 }),
      (text, max) => {
        const cut = cutText(text, max);
        expect(utf8Bytes(cut)).toBeLessThanOrEqual(max);
        if (utf8Bytes(text) <= max) expect(cut).toBe(text);
        else expect(text.startsWith(cut.slice(0, -1)) && cut.endsWith('…')).toBe(true);
      },
    ),
  );
});

it('all texts of plain JSON are cut, and nothing else is changed', () => {
  const value = { a: ['x'.repeat(50), 3, null, true], b: { c: 'short' } };
  expect(withShortTexts(value, 10)).toEqual({ a: [`${'x'.repeat(7)}…`, 3, null, true], b: { c: 'short' } });
});
