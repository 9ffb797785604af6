import { inspect } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { compareKeys } from '../../stores/keys.ts';
import { openStore } from '../../stores/open-store.ts';
import { fromPlain, toPlain } from '../../stores/store-config.ts';
import type { StoreConfig } from '../../stores/store-config.ts';

describe('a store configuration', () => {
  const config: StoreConfig = {
    kind: 's3',
    bucket: 'b',
    prefix: 'p/q',
    region: 'eu-west-1',
    credentials: {
      accessKeyId: new Secret('key'),
      secretAccessKey: new Secret('canary'),
      sessionToken: new Secret('canary'),
    },
  };

  it('crosses into a worker thread and back', () => {
    const crossed = fromPlain(structuredClone(toPlain(config)));
    expect(toPlain(crossed)).toEqual(toPlain(config));
    expect(crossed.kind === 's3' && crossed.credentials?.secretAccessKey.reveal()).toBe('canary');
  });

  it('S1: shows no secret when it is printed', () => {
    expect(JSON.stringify(config) + inspect(config, { depth: 9 })).not.toContain('canary');
  });

  it('opens by its kind, with an address that holds no credential', () => {
    expect(openStore(config).url).toBe('s3://b/p/q');
    expect(openStore({ kind: 'file', directory: '/srv/backups' }).url).toBe('file:///srv/backups');
  });
});

it('keys are ordered by their bytes, whatever the script', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' }), (a, b) => {
      expect(Math.sign(compareKeys(a, b))).toBe(Buffer.compare(Buffer.from(a), Buffer.from(b)));
    }),
  );
});
