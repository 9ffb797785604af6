import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Where a worker takes the workflows from: the bundle that the build made, or, in a clone, the source. */
export function workflowSource(): { workflowBundle: { codePath: string } } | { workflowsPath: string } {
  const built = fileURLToPath(new URL('../workflow-bundle.js', import.meta.url));
  if (existsSync(built)) return { workflowBundle: { codePath: built } };
  // After tsc this file is JavaScript, and so is the entry.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  return { workflowsPath: fileURLToPath(new URL(`../workflows/index.${extension}`, import.meta.url)) };
}
