import { afterEach, expect, it, vi } from 'vitest';
import { Secret } from '../../core/secret.ts';
import type { AzureCredentials } from '../../stores/store-config.ts';
import { type AzureDouble, CANARY_KEY, refuse, startAzureDouble } from './azure-double.ts';

// read once, when the SDK is loaded
vi.hoisted(() => {
  process.env['AZURE_LOG_LEVEL'] = 'verbose';
});

let double: AzureDouble;
afterEach(() => double.close());

it.for<AzureCredentials>([
  { way: 'account-key', account: 'acct', key: new Secret(CANARY_KEY) },
  { way: 'sas-token', token: new Secret('sv=1&sp=r&sig=canary%2Fcanary') },
])("S1: the SDK's own log of everything holds no secret ($way)", async (credentials) => {
  const said: string[] = [];
  const writing = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    said.push(String(text));
    return true;
  });
  const { signal } = new AbortController();
  double = await startAzureDouble((_, response) => refuse(response, 403, 'AuthenticationFailed'));
  const store = double.store({}, { credentials });
  await store.put('k', Buffer.from('x'), { signal }).catch(() => undefined);
  await store.get('k', { signal }).catch(() => undefined);
  writing.mockRestore();
  const log = said.join('');
  expect(log).toContain('/acct/box/k');
  // the double's own text quotes the key, as a careless server would
  expect(log.replaceAll(`signed with ${CANARY_KEY}`, '')).not.toMatch(/canary|Y2FuYXJ5/i);
  // what proves the key without being it
  expect(log).not.toMatch(/SharedKey acct:/);
});
