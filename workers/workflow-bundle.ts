import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The files that the build makes: the workflows, and the same with the messages of their failures to be encrypted. */
export const BUNDLES = { plain: 'workflow-bundle.js', encrypted: 'workflow-bundle-encrypted.js' } as const;

/** Where a worker takes the workflows from: the bundle that the build made, or, in a clone, the source. */
export function workflowSource({ encrypted = false }: { encrypted?: boolean } = {}):
  { workflowBundle: { codePath: string } } | { workflowsPath: string } {
  const name = encrypted ? BUNDLES.encrypted : BUNDLES.plain;
  const built = fileURLToPath(new URL(`../${name}`, import.meta.url));
  if (existsSync(built)) return { workflowBundle: { codePath: built } };
  // After tsc this file is JavaScript, and so is the entry.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  return { workflowsPath: fileURLToPath(new URL(`../workflows/index.${extension}`, import.meta.url)) };
}
