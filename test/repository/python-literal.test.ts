import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import {
  formatLiteral,
  literalToJson,
  parseLiteral,
  Tuple,
  type LiteralValue,
} from '../../repository/python-literal.ts';
import { hasProgram, output } from './programs.ts';

describe('reading a Python literal', () => {
  test.for<[string, LiteralValue]>([
    ['None', null],
    [' True ', true],
    ['-12', -12],
    ['17.902042', 17.902042],
    ['1e-05', 0.00001],
    ['7711125222447432971', 7711125222447432971n],
    [`'it''s'`.replace("''", "\\'"), "it's"],
    [`"a\\n\\t\\\\\\x41\\u00fc\\U0001d11e"`, 'a\n\t\\Aü𝄞'],
    [`u'old'`, 'old'],
    ['[]', []],
    ['()', new Tuple([])],
    ['(1)', 1],
    ['(1,)', new Tuple([1])],
    [
      `[('ts_a', 16384, '/srv/ts_a'), ["b", "2", '/x',],]`,
      [new Tuple(['ts_a', 16384, '/srv/ts_a']), ['b', '2', '/x']],
    ],
    [
      `{'a': {}, 1: [None]}`,
      new Map<LiteralValue, LiteralValue>([
        ['a', new Map()],
        [1, [null]],
      ]),
    ],
    ['[null, true, false, "\\/"]', [null, true, false, '/']],
  ])('%s', ([text, value]) => {
    expect(parseLiteral(text)).toEqual(value);
  });

  test.for([
    '',
    ' ',
    'none',
    '[1 2]',
    '[1,,2]',
    '[',
    '(1',
    '{1}',
    '{1: }',
    "'",
    "'abc",
    "'a\nb'",
    "'\\q'",
    "'\\x4'",
    "'\\U00110000'",
    '1 2',
    '01',
    '1.2.3',
    '-',
    '+1',
    'open("x")',
    '[].append',
    'b"x"',
    "'a' 'b'",
    '1e9999x',
    '\u00a0None',
    '['.repeat(40) + ']'.repeat(40),
  ])('refuses %j', (text) => {
    expect(() => parseLiteral(text)).toThrow(expect.objectContaining({ code: 'format-invalid' }));
  });

  it('S2: size and depth are bounded', () => {
    expect(() => parseLiteral(`'${'x'.repeat(1024 * 1024)}'`)).toThrow(/too long/);
    expect(() => parseLiteral('['.repeat(500_000))).toThrow(/deeper than 32/);
    expect(parseLiteral('['.repeat(30) + ']'.repeat(30))).toBeInstanceOf(Array);
  });
});

const key = fc.oneof(fc.string({ unit: 'binary' }), fc.integer());
const { literal } = fc.letrec<{ literal: LiteralValue }>((tie) => ({
  literal: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom(null, true, false),
    fc.maxSafeInteger(),
    fc.double({ noNaN: true, noDefaultInfinity: true }).filter((value) => !Number.isInteger(value)),
    fc.bigInt({ min: 2n ** 60n, max: 2n ** 70n }),
    fc.string({ unit: 'binary' }),
    fc.array(tie('literal'), { maxLength: 4 }),
    fc.array(tie('literal'), { maxLength: 4 }).map((items) => new Tuple(items)),
    fc
      .array(fc.tuple(key, tie('literal')), { maxLength: 4 })
      .map((entries) => new Map<LiteralValue, LiteralValue>(entries)),
  ),
}));

describe('writing a Python literal', () => {
  it('E1: what is written is read, and is one line', () => {
    fc.assert(
      fc.property(literal, (value) => {
        const text = formatLiteral(value);
        expect(parseLiteral(text)).toEqual(value);
        expect(text).not.toMatch(/[\p{Cc}\u2028\u2029]/u);
      }),
    );
  });

  test.for<[Parameters<typeof formatLiteral>[0], string]>([
    ['plain ü', `'plain ü'`],
    ["it's", `"it's"`],
    [`both ' and "`, `'both \\' and "'`],
    ['a\nb\\', `'a\\nb\\\\'`],
    ['\u00a0\u2028\x7f', `'\\xa0\\u2028\\x7f'`],
    [{ a: 1, b: 0.5 }, `{'a': 1, 'b': 0.5}`],
    [0.00001, '1e-05'],
    [1e22, '1e+22'],
    [new Tuple(['x']), `('x',)`],
  ])('%j', ([value, text]) => {
    expect(formatLiteral(value)).toBe(text);
  });

  it('refuses what Python has no literal for', () => {
    expect(() => formatLiteral(Number.NaN)).toThrow(/can not be written/);
  });

  it('is shown as JSON', () => {
    const value = parseLiteral(`{'a': (1, 2), 5: [None], 'big': 99999999999999999999}`);
    expect(literalToJson(value)).toEqual({ a: [1, 2], 5: [null], big: '99999999999999999999' });
  });

  it.runIf(hasProgram('python3'))('E5: Python writes the same', () => {
    const values = fc.sample(literal, { numRuns: 300, seed: 7 });
    const texts = values.map((value) => formatLiteral(value));
    const script = `
import ast, json, sys
texts = json.load(open(0))
print(json.dumps([repr(ast.literal_eval(text)) for text in texts]))`;
    const written = JSON.parse(
      output('python3', ['-c', script], { input: JSON.stringify(texts) }),
    ) as string[];
    // Unicode versions differ in what is printable: compare what differs in nothing else
    const isAscii = (text: string) => /^[ -~]*$/.test(text);
    const compared = texts
      .map((ours, i) => [ours, written[i]] as const)
      .filter(([ours, theirs]) => isAscii(ours + theirs));
    expect(compared.length).toBeGreaterThan(100);
    for (const [ours, theirs] of compared) expect(ours).toBe(theirs);
  });
});
