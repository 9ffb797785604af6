import { utf8Bytes } from './fingerprint.ts';

/** `text`, ended by `…` where it would take more than `maxBytes` in UTF-8. */
export function cutText(text: string, maxBytes: number): string {
  // No text has more characters than bytes.
  if (text.length * 3 <= maxBytes || utf8Bytes(text) <= maxBytes) return text;
  const kept: string[] = [];
  let left = maxBytes - utf8Bytes('…');
  for (const character of text) {
    left -= utf8Bytes(character);
    if (left < 0) break;
    kept.push(character);
  }
  return `${kept.join('')}…`;
}

/** Plain JSON with all its texts cut so. */
export function withShortTexts<Value>(value: Value, maxBytes: number): Value {
  return shortened(value, maxBytes) as Value;
}

function shortened(value: unknown, maxBytes: number): unknown {
  if (typeof value === 'string') return cutText(value, maxBytes);
  if (Array.isArray(value)) return value.map((item: unknown) => shortened(item, maxBytes));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, shortened(field, maxBytes)]));
}
