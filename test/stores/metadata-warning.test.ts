import { createServer } from 'node:http';
import { once } from 'node:events';
import { afterEach, expect, it, vi } from 'vitest';
import { createAmbientIdentity } from '../../stores/gcs-identity.ts';
import { makeTempDir } from '../support/temp.ts';

afterEach(() => vi.unstubAllEnvs());

it('a metadata server that answers oddly is an error of ours with advice, and no line on standard error', async () => {
  const server = createServer((request) => request.socket.destroy()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  vi.stubEnv('GCE_METADATA_HOST', `127.0.0.1:${typeof address === 'object' ? address?.port : ''}`);
  vi.stubEnv('GOOGLE_APPLICATION_CREDENTIALS', undefined);
  vi.stubEnv('CLOUDSDK_CONFIG', makeTempDir('gcloud'));
  vi.stubEnv('HOME', makeTempDir('home'));
  const warned: string[] = [];
  const listen = ({ name }: Error) => void warned.push(name);
  process.on('warning', listen);
  try {
    await expect(createAmbientIdentity().headers(AbortSignal.timeout(60_000))).rejects.toMatchObject({
      code: 'access-denied',
      message: expect.stringContaining('no identity of its own'),
    });
    process.emitWarning('another one', 'OtherWarning');
    await vi.waitFor(() => expect(warned).toContain('OtherWarning'));
    expect(warned).toEqual(['OtherWarning']);
  } finally {
    process.off('warning', listen);
    server.close();
  }
}, 90_000);
