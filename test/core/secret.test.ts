import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';

describe('Secret', () => {
  const secret = new Secret('hunter2');

  it('S1: prints a mask in every ordinary way', () => {
    const printed = [
      String(secret),
      JSON.stringify({ secret }),
      inspect({ secret }, { depth: 10, showHidden: true }),
      Object.keys(secret).join(),
      JSON.stringify(Object.entries(secret)),
    ];
    expect(printed.join('\n')).not.toContain('hunter2');
    expect(String(secret)).toBe('[secret]');
  });

  it('gives the value only when asked for it', () => {
    expect(secret.reveal()).toBe('hunter2');
    expect(new TextDecoder().decode(secret.revealBytes())).toBe('hunter2');
  });

  it('keeps bytes as they are, and does not read them as text when they are none', () => {
    const bytes = Uint8Array.of(0xff, 0x00, 0x80);
    const binary = new Secret(bytes);
    bytes[0] = 0;
    expect([...binary.revealBytes()]).toEqual([0xff, 0x00, 0x80]);
    expect(() => binary.reveal()).toThrow(expect.objectContaining({ code: 'config-invalid' }));
  });
});
