import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { createAmbientIdentity } from '../../stores/gcs-identity.ts';
import { makeTempDir } from '../support/temp.ts';

afterEach(() => vi.unstubAllEnvs());

test.for([
  ['is not there', undefined],
  ['is empty', ''],
  ['is no JSON', 'canary'],
  ['names no account', '{}'],
  ['holds no key', '{"type": "service_account", "client_email": "a@b", "canary": 1}'],
  ['holds a key that is none', '{"type": "service_account", "client_email": "a@b", "private_key": "canary"}'],
] as const)(
  'S1: a file of Google credentials that %s ends the first try, and is not quoted',
  async ([, text]) => {
    const file = join(makeTempDir('credentials'), 'key.json');
    if (text !== undefined) writeFileSync(file, text);
    vi.stubEnv('GOOGLE_APPLICATION_CREDENTIALS', file);
    const error: unknown = await createAmbientIdentity()
      .headers(AbortSignal.timeout(30_000))
      .catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: 'config-invalid',
      retryable: false,
      hint: expect.stringContaining('GOOGLE_APPLICATION_CREDENTIALS'),
    });
    expect(String(error)).not.toContain('canary');
  },
);
